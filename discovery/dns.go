package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DNSName finds the nodes by the addresses of a name. [DNS] makes one.
type DNSName struct {
	// Host is the name. An address is a list of one node.
	Host string

	// Port is the port of every node. The default, 0, is [DefaultPort].
	Port uint16

	// Network says which addresses are nodes: "ip4", "ip6", or "ip" for both. The default, "", is those of IPv4 if the name has
	// any, and those of IPv6 if not: a server that has an address of each would be two nodes, of which one is a second master.
	Network string

	// Resolver asks. The default, nil, is net.DefaultResolver. Its time limits hold, which are those of resolv.conf.
	Resolver *net.Resolver
}

// DNS returns a discoverer for which every address of a name is a node. A headless service of Kubernetes is such a name.
//
// The nodes are in the order of their addresses. Each keeps the name as its Host, so that the name is what certificates and
// .pgpass must have, and the address found is dialled, not the name again. Go does not tell how long an answer may be kept, so
// each Discover asks anew.
//
// If the name has no address the error wraps [ErrNoNodes]. If one of the questions fails, for IPv4 or for IPv6, the whole
// Discover fails: half an answer would remove nodes.
func DNS(host string, port uint16) *DNSName { return &DNSName{Host: host, Port: port} }

// Validate says what is wrong with the fields.
func (d *DNSName) Validate() error {
	if err := d.problem(); err != nil {
		return fmt.Errorf("hasql: discovery by DNS: %w", err)
	}
	return nil
}

func (d *DNSName) problem() error {
	if !slices.Contains([]string{"", "ip", "ip4", "ip6"}, d.Network) {
		return errors.New("a network that is none of ip, ip4 and ip6")
	}
	return checkHost(absolute(d.Host))
}

// Discover asks for the addresses.
func (d *DNSName) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	addrs, err := d.lookup(ctx)
	slices.SortFunc(addrs, netip.Addr.Compare)
	endpoints := make([]Endpoint, len(addrs))
	for i, addr := range addrs {
		endpoints[i] = Endpoint{Host: absolute(d.Host), Port: d.Port, Addr: addr}
	}
	return result("the addresses of "+d.Host, endpoints, asked(ctx, err))
}

// lookup asks for each family by itself. Asked for both, Go's resolver hides that one of the answers failed.
func (d *DNSName) lookup(ctx context.Context) (addrs []netip.Addr, err error) {
	if addr, err := netip.ParseAddr(d.Host); err == nil {
		return []netip.Addr{addr}, nil
	}
	families := []string{d.Network}
	if d.Network == "" || d.Network == "ip" {
		families = []string{"ip4", "ip6"}
	}
	for _, family := range families {
		some, err := cmp.Or(d.Resolver, net.DefaultResolver).LookupNetIP(ctx, family, d.Host)
		if err != nil && !notFound(err) {
			return nil, err
		}
		for _, addr := range some {
			addrs = append(addrs, addr.Unmap())
		}
		if d.Network == "" && len(addrs) > 0 {
			break
		}
	}
	return addrs, nil
}

// SRVName finds the nodes by the SRV records of a domain. [SRV] makes one.
type SRVName struct {
	// Domain is the domain that has _postgresql._tcp records: example.org if _postgresql._tcp.example.org has them. A name
	// that begins with an underscore is asked for as it is: _standby._tcp.example.org.
	Domain string

	// Resolver asks. The default, nil, is net.DefaultResolver. Its time limits hold, which are those of resolv.conf.
	Resolver *net.Resolver
}

// SRV returns a discoverer for which every SRV record of _postgresql._tcp in a domain is a node. See
// https://www.rfc-editor.org/rfc/rfc2782.
//
// A node's Host is the target of its record, which is looked up for each dial. The nodes are in the order of their priority; those
// of one priority begin with the heaviest. The tags srv_priority and srv_weight have both numbers. RFC 2782 wants clients to choose by
// them; hasql chooses by role and load.
//
// If there is no record, or the only one says that there is no such service, the error wraps [ErrNoNodes]. A record that makes no
// sense is an error: without its node the list would be half an answer.
func SRV(domain string) *SRVName { return &SRVName{Domain: domain} }

// Validate says what is wrong with the fields.
func (s *SRVName) Validate() error {
	if err := checkHost(absolute(s.Domain)); err != nil {
		return fmt.Errorf("hasql: discovery by SRV: %w", err)
	}
	return nil
}

// Discover asks for the records.
func (s *SRVName) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	records, err := s.lookup(ctx)
	slices.SortFunc(records, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.Weight, a.Weight),
			strings.Compare(a.Target, b.Target), cmp.Compare(a.Port, b.Port))
	})
	var endpoints []Endpoint
	for _, r := range records {
		if r.Target == "." {
			continue // RFC 2782: the service is decidedly not available at this domain
		}
		if r.Port == 0 {
			err = cmp.Or(err, fmt.Errorf("the record of %s has no port", r.Target))
		}
		endpoints = append(endpoints, Endpoint{Host: absolute(r.Target), Port: r.Port, Tags: map[string]string{
			"srv_priority": strconv.Itoa(int(r.Priority)),
			"srv_weight":   strconv.Itoa(int(r.Weight)),
		}})
	}
	return result("the SRV records of "+s.Domain, endpoints, asked(ctx, err))
}

func (s *SRVName) lookup(ctx context.Context) ([]*net.SRV, error) {
	service, proto := "postgresql", "tcp"
	if strings.HasPrefix(s.Domain, "_") {
		service, proto = "", ""
	}
	type answer struct {
		records []*net.SRV
		err     error
	}
	answered := make(chan answer, 1)
	go func() { // LookupSRV does not return when ctx is cancelled, but when the time for the server is up
		_, records, err := cmp.Or(s.Resolver, net.DefaultResolver).LookupSRV(ctx, service, proto, s.Domain)
		answered <- answer{records, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answered:
		if a.err != nil && notFound(a.err) {
			return nil, nil
		}
		return a.records, a.err
	}
}

// absolute takes off the dot that keeps a resolver from trying its search domains. Neither certificates nor .pgpass have it.
func absolute(name string) string { return strings.TrimSuffix(name, ".") }

// notFound reports whether a resolver answered that there is nothing, as opposed to not having answered.
func notFound(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// asked returns the error of a question: the end of ctx if that is what ended it.
func asked(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
