package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pghasql/hasql/internal/testenv"
)

func TestDNS(t *testing.T) {
	server := newDNS(t)
	server.addresses("three.test.", "10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.1")
	server.addresses("both.test.", "10.0.0.1", "fd00::2", "fd00::1")
	server.addresses("six.test.", "fd00::1")
	server.addresses("none.test.")
	server.addresses("half6.test.", "10.0.0.1")
	server.fail("half6.test.", typeAAAA)
	server.addresses("half4.test.", "fd00::1")
	server.fail("half4.test.", typeA)

	const three = "three.test:5432 (10.0.0.1)=three.test:5432/10.0.0.1 three.test:5432 (10.0.0.2)=three.test:5432/10.0.0.2 " +
		"three.test:5432 (10.0.0.3)=three.test:5432/10.0.0.3"
	for _, test := range []struct {
		name, host, network, want string
		port                      uint16
		problems                  []string
	}{
		{name: "in the order of addresses, each once", host: "three.test", want: three},
		{name: "the last dot is not in the name", host: "three.test.", want: three},
		{
			name: "IPv4 alone, for a server with both would be two", host: "both.test",
			want: "both.test:5432 (10.0.0.1)=both.test:5432/10.0.0.1",
		},
		{name: "IPv6 if there is nothing else", host: "six.test", port: 5433, want: "six.test:5433 (fd00::1)=six.test:5433/fd00::1"},
		{
			name: "IPv6 on request", host: "both.test", network: "ip6",
			want: "both.test:5432 (fd00::1)=both.test:5432/fd00::1 both.test:5432 (fd00::2)=both.test:5432/fd00::2",
		},
		{
			name: "both on request", host: "both.test", network: "ip",
			want: "both.test:5432 (10.0.0.1)=both.test:5432/10.0.0.1 both.test:5432 (fd00::1)=both.test:5432/fd00::1 " +
				"both.test:5432 (fd00::2)=both.test:5432/fd00::2",
		},
		{name: "an address is itself", host: "10.0.0.9", want: "10.0.0.9:5432=10.0.0.9:5432/10.0.0.9"},
		{name: "an IPv6 address is itself", host: "fd00::9", want: "[fd00::9]:5432=fd00::9:5432/fd00::9"},
		{name: "no such name", host: "missing.test.", problems: []string{"missing.test", ErrNoNodes.Error()}},
		{name: "a name without addresses", host: "none.test.", problems: []string{"none.test", ErrNoNodes.Error()}},
		{name: "no address of this family", host: "six.test.", network: "ip4", problems: []string{ErrNoNodes.Error()}},
		{name: "half an answer is none", host: "half6.test.", network: "ip", problems: []string{"server misbehaving"}},
		{name: "IPv4 that fails is not no IPv4", host: "half4.test.", problems: []string{"server misbehaving"}},
		{name: "IPv6 that fails does not matter if it is not needed", host: "half6.test.", want: "half6.test:5432 (10.0.0.1)=half6.test:5432/10.0.0.1"},
		{name: "no host", problems: []string{"no host"}},
		{name: "not a host", host: "a b", problems: []string{"neither a name nor an address"}},
		{name: "not a network", host: "three.test", network: "tcp", problems: []string{"none of ip, ip4 and ip6"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := DNS(test.host, test.port)
			d.Network, d.Resolver = test.network, server.resolver()
			list, err := d.Discover(t.Context())
			check(t, list, err, test.want, test.problems...)
		})
	}
}

// An answer that does not fit into a packet is asked for again by TCP. A part of it would remove nodes.
func TestDNSReadsLongAnswers(t *testing.T) {
	server := newDNS(t)
	var addrs []string
	for i := range 200 {
		addrs = append(addrs, fmt.Sprintf("10.0.1.%d", i))
	}
	server.addresses("many.test.", addrs...)
	d := DNS("many.test.", 0)
	d.Resolver = server.resolver()
	if list, err := d.Discover(t.Context()); err != nil || len(list) != len(addrs) {
		t.Errorf("%d of %d nodes, %v", len(list), len(addrs), err)
	}
}

func TestDNSFollowsChanges(t *testing.T) {
	server := newDNS(t)
	d := DNS("pg.test.", 0)
	d.Resolver = server.resolver()
	for _, addrs := range [][]string{{"10.0.0.1"}, {"10.0.0.2", "10.0.0.1"}, {"10.0.0.2"}} {
		server.addresses("pg.test.", addrs...)
		list, err := d.Discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range list {
			got = append(got, e.Addr.String())
		}
		if slices.Sort(addrs); !slices.Equal(got, addrs) {
			t.Errorf("got %v, want %v", got, addrs)
		}
	}
}

func TestSRV(t *testing.T) {
	server := newDNS(t)
	const name = "_postgresql._tcp.example.test."
	server.set(name, typeSRV,
		srv(20, 0, 5432, "pg3.example.test."),
		srv(10, 5, 5433, "pg2.example.test."),
		srv(10, 60, 5432, "pg1.example.test."),
		srv(10, 60, 5432, "pg0.example.test."),
		srv(30, 0, 5432, "PG3.example.test."))
	server.set("_standby._tcp.example.test.", typeSRV, srv(0, 0, 5432, "pg2.example.test."))
	server.set("_postgresql._tcp.off.test.", typeSRV, srv(0, 0, 0, "."))
	server.set("_postgresql._tcp.empty.test.", typeSRV)
	server.set("_postgresql._tcp.portless.test.", typeSRV, srv(0, 0, 5432, "pg1.test."), srv(0, 0, 0, "pg2.test."))
	server.set("_postgresql._tcp.broken.test.", typeSRV, srv(0, 0, 5432, "pg1.test."), srv(0, 0, 5432, "pg 2.test."))
	server.fail("_postgresql._tcp.failed.test.", typeSRV)

	for _, test := range []struct {
		domain, want string
		problems     []string
	}{
		{domain: "example.test", want: "pg0.example.test:5432=pg0.example.test:5432{srv_priority:10 srv_weight:60} " +
			"pg1.example.test:5432=pg1.example.test:5432{srv_priority:10 srv_weight:60} " +
			"pg2.example.test:5433=pg2.example.test:5433{srv_priority:10 srv_weight:5} " +
			"pg3.example.test:5432=pg3.example.test:5432{srv_priority:20 srv_weight:0}"},
		{domain: "_standby._tcp.example.test.", want: "pg2.example.test:5432=pg2.example.test:5432{srv_priority:0 srv_weight:0}"},
		{domain: "missing.test.", problems: []string{"missing.test", ErrNoNodes.Error()}},
		{domain: "off.test.", problems: []string{ErrNoNodes.Error()}},
		{domain: "empty.test.", problems: []string{ErrNoNodes.Error()}},
		{domain: "portless.test.", problems: []string{"the record of pg2.test. has no port"}},
		{domain: "broken.test.", problems: []string{"broken.test"}},
		{domain: "failed.test.", problems: []string{"server misbehaving"}},
		{domain: "", problems: []string{"no host"}},
		{domain: "postgres://app:geheim@pg1", problems: []string{"neither a name nor an address"}},
	} {
		t.Run(test.domain, func(t *testing.T) {
			s := SRV(test.domain)
			s.Resolver = server.resolver()
			for range 5 { // Go shuffles records by their weights
				list, err := s.Discover(t.Context())
				check(t, list, err, test.want, test.problems...)
				if err != nil && strings.Contains(err.Error(), "geheim") {
					t.Errorf("the error tells the password: %v", err)
				}
			}
		})
	}
}

// A server that does not answer holds nobody longer than his context.
func TestDNSHonoursItsContext(t *testing.T) {
	server := newDNS(t)
	server.hush("silent.test.", typeA)
	server.hush("_postgresql._tcp.silent.test.", typeSRV)
	d, s := DNS("silent.test.", 0), SRV("silent.test.")
	d.Resolver, s.Resolver = server.resolver(), server.resolver()
	for _, source := range []Discoverer{d, s} {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			<-server.asked
			cancel()
		})
		if list, err := source.Discover(ctx); !errors.Is(err, context.Canceled) {
			t.Error(list, err)
		}
		running.Wait()
		cancel()
	}
}

// The time limit of the resolver is not that of the caller.
func TestDNSTimeout(t *testing.T) {
	// The resolver makes a channel for the whole process when it is first used, which must not be inside of the bubble.
	refusing := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no server")
	}}
	if _, err := refusing.LookupHost(t.Context(), "silent.test."); err == nil {
		t.Fatal("an answer without a server")
	}
	testenv.Bubble(t, func(t *testing.T) {
		resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go io.Copy(io.Discard, server) // a server that reads and never answers; it ends with the client
			return client, nil
		}}
		d, s := DNS("silent.test.", 0), SRV("silent.test.")
		d.Resolver, s.Resolver = resolver, resolver
		for _, source := range []Discoverer{d, s} {
			list, err := source.Discover(t.Context())
			check(t, list, err, "", "silent.test", "timeout")
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it looks like the caller's own time limit: %v", err)
			}
		}
	})
}
