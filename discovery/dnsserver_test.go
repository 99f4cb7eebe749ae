package discovery

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Types of records and codes of answers: https://www.rfc-editor.org/rfc/rfc1035, 3596 and 2782.
const (
	typeA    = 1
	typeAAAA = 28
	typeSRV  = 33

	rcodeFailed = 2
	rcodeNoName = 3

	maxPacket = 512 // what is longer is cut off, and asked for again by TCP
)

// dnsServer is a DNS server on ports of its own, one for UDP and one for TCP.
type dnsServer struct {
	packets net.PacketConn
	streams net.Listener
	asked   chan string // a name whose question was left unanswered

	mu     sync.Mutex
	data   map[question][][]byte
	failed map[question]bool
	silent map[question]bool
	conns  []net.Conn
	closed bool
}

type question struct {
	name string // in lower case, with its last dot
	typ  uint16
}

func newDNS(t *testing.T) *dnsServer {
	t.Helper()
	s := &dnsServer{
		asked: make(chan string, 100), data: make(map[question][][]byte), failed: make(map[question]bool), silent: make(map[question]bool),
	}
	var err error
	if s.packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if s.streams, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(s.serveUDP)
	running.Go(func() { s.serveTCP(&running) })
	t.Cleanup(func() {
		s.packets.Close()
		s.streams.Close()
		s.mu.Lock()
		s.closed = true
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		running.Wait()
	})
	return s
}

// resolver asks this server, whatever resolv.conf says. Its connections end with the server.
func (s *dnsServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		addr := s.packets.LocalAddr()
		if strings.HasPrefix(network, "tcp") {
			addr = s.streams.Addr()
		}
		conn, err := new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
		if err != nil {
			return nil, err
		}
		return s.keep(conn)
	}}
}

func (s *dnsServer) keep(conn net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	s.conns = append(s.conns, conn)
	return conn, nil
}

func (s *dnsServer) set(name string, typ uint16, data ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data[question{name, typ}] = data
}

// addresses gives a name its addresses, of both families.
func (s *dnsServer) addresses(name string, addrs ...string) {
	byType := map[uint16][][]byte{typeA: nil, typeAAAA: nil}
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		typ := uint16(typeAAAA)
		if addr.Is4() {
			typ = typeA
		}
		byType[typ] = append(byType[typ], addr.AsSlice())
	}
	for typ, data := range byType {
		s.set(name, typ, data...)
	}
}

func srv(priority, weight, port uint16, target string) []byte {
	var b []byte
	for _, n := range []uint16{priority, weight, port} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	if target != "." {
		for label := range strings.SplitSeq(strings.TrimSuffix(target, "."), ".") {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}

func (s *dnsServer) fail(name string, typ uint16) { s.mark(s.failed, name, typ) }
func (s *dnsServer) hush(name string, typ uint16) { s.mark(s.silent, name, typ) }

func (s *dnsServer) mark(marks map[question]bool, name string, typ uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	marks[question{name, typ}] = true
}

func (s *dnsServer) serveUDP() {
	buffer := make([]byte, 4096)
	for {
		n, from, err := s.packets.ReadFrom(buffer)
		if err != nil {
			return
		}
		answer := s.answer(buffer[:n])
		if len(answer) > maxPacket {
			answer = cutOff(buffer[:n])
		}
		if answer != nil {
			s.packets.WriteTo(answer, from)
		}
	}
}

// cutOff is the answer that says to ask again by TCP. It has no record.
func cutOff(query []byte) []byte {
	_, end := parseQuestion(query)
	b := header(query, 0, 0)
	b[2] |= 2
	return append(b, query[12:end]...)
}

func (s *dnsServer) serveTCP(running *sync.WaitGroup) {
	for {
		conn, err := s.streams.Accept()
		if err != nil {
			return
		}
		if conn, err = s.keep(conn); err != nil {
			return
		}
		running.Go(func() {
			defer conn.Close()
			var length [2]byte
			for {
				if _, err := io.ReadFull(conn, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(conn, query); err != nil {
					return
				}
				answer := s.answer(query)
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		})
	}
}

// answer returns the answer to a query, or nil to keep silent.
func (s *dnsServer) answer(query []byte) []byte {
	q, end := parseQuestion(query)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent[q] {
		s.asked <- q.name
		return nil
	}
	records, known := s.data[q]
	rcode := byte(0)
	switch {
	case s.failed[q]:
		rcode, records = rcodeFailed, nil
	case !known:
		rcode = rcodeNoName
	}
	b := append(header(query, rcode, len(records)), query[12:end]...)
	for _, data := range records {
		b = append(b, 0xc0, 12) // the name of the question
		b = binary.BigEndian.AppendUint16(b, q.typ)
		b = append(b, 0, 1, 0, 0, 0, 60) // class IN, 60 s
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
	}
	return b
}

func header(query []byte, rcode byte, answers int) []byte {
	b := append(slices.Clone(query[:2]), 0x81, 0x80|rcode, 0, 1)
	return append(binary.BigEndian.AppendUint16(b, uint16(answers)), 0, 0, 0, 0)
}

func parseQuestion(query []byte) (q question, end int) {
	end = 12
	for query[end] != 0 {
		next := end + 1 + int(query[end])
		q.name += strings.ToLower(string(query[end+1:next])) + "."
		end = next
	}
	q.typ = binary.BigEndian.Uint16(query[end+1:])
	return q, end + 5
}
