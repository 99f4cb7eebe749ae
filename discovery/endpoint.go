package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// DefaultPort is the port of a node whose port is not given.
const DefaultPort = 5432

// ErrNoNodes is what the error for an answer without any node wraps. Such an answer never empties a cluster.
var ErrNoNodes = errors.New("no nodes")

// Discoverer says which nodes the cluster has at the moment.
type Discoverer interface {
	// Discover returns every node of the cluster, whatever its role and whether it answers or not. It may block until ctx
	// ends. The list belongs to the caller. An error means that nothing is known, also of those nodes that were found.
	Discover(ctx context.Context) ([]Endpoint, error)
}

// Watcher is an optional interface of a [Discoverer], found by assertion, for sources that notice changes by themselves.
type Watcher interface {
	// Watch returns a sequence that begins with the present list, and goes on with each list that differs from the one
	// before. An error in it means what an error of Discover means, comes once for as long as it stays the same, and does
	// not end the sequence. The sequence ends when ctx ends or the loop over it breaks. Lists belong to the caller.
	Watch(ctx context.Context) iter.Seq2[[]Endpoint, error]
}

// Endpoint is one node as a [Discoverer] knows it. What it does not say, such as the user, the password, TLS and the settings of the
// pool, is as in the DSN.
//
// Two endpoints with equal Host, Port and Addr are one server, which a list has once; the letters' case in Host does not count.
type Endpoint struct {
	// Name is the node's name in logs, errors and statistics. No two nodes of a list have the same. The default, "", is
	// host:port, with Addr in brackets behind it if that is set and is not the host itself.
	Name string

	// Host is the name or address by which the node is known. TLS compares it with the certificate (verify-full), and .pgpass
	// has its password under it. It is dialled unless Addr is set. It has no port and no brackets, and is no socket.
	Host string

	// Port is the port of PostgreSQL. The default, 0, is [DefaultPort].
	Port uint16

	// Addr is dialled in place of Host, like libpq's hostaddr. The default, the zero Addr, looks Host up for each dial.
	Addr netip.Addr

	// Zone is the node's availability zone. The default is none.
	Zone string

	// Tags are what the source says besides, and operators have set. A tag that is on has the value "true". Known are those of
	// Patroni: noloadbalance is a node that takes no reads, sync_standby one that is a synchronous standby. May be nil.
	Tags map[string]string
}

// Equal reports whether two endpoints have equal fields. No tags and an empty map of tags are equal.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Name == o.Name && e.Host == o.Host && e.Port == o.Port && e.Addr == o.Addr && e.Zone == o.Zone &&
		maps.Equal(e.Tags, o.Tags)
}

// Normalize returns the list as every discoverer of this package returns it: names and ports filled in, each node once, in
// the given order. It refuses a list with an impossible host, with the same name for two nodes, or without a node
// ([ErrNoNodes]). The result shares nothing with the argument. It is for discoverers of one's own.
func Normalize(endpoints []Endpoint) ([]Endpoint, error) {
	list := make([]Endpoint, 0, len(endpoints))
	seen := make(map[identity]bool)
	named := make(map[string]bool)
	for i, e := range endpoints {
		e, err := e.normal()
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", i+1, err)
		}
		if seen[e.identity()] {
			continue
		}
		if named[e.Name] {
			return nil, fmt.Errorf("two nodes have the name %q", e.Name)
		}
		seen[e.identity()], named[e.Name] = true, true
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, ErrNoNodes
	}
	return list, nil
}

// identity is what makes two endpoints one server.
type identity struct {
	host string
	port uint16
	addr netip.Addr
}

func (e Endpoint) identity() identity { return identity{strings.ToLower(e.Host), e.Port, e.Addr} }

func (e Endpoint) normal() (Endpoint, error) {
	if err := checkHost(e.Host); err != nil {
		return Endpoint{}, err
	}
	if !printable(e.Name) || !printable(e.Zone) {
		return Endpoint{}, errors.New("a name or zone has characters that cannot be printed")
	}
	e.Port = cmp.Or(e.Port, DefaultPort)
	e.Addr = e.Addr.Unmap()
	if e.Name == "" {
		e.Name = net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
		if e.Addr.IsValid() && e.Addr.String() != e.Host {
			e.Name += " (" + e.Addr.String() + ")"
		}
	}
	e.Tags = maps.Clone(e.Tags)
	return e, nil
}

var hostName = regexp.MustCompile(`^[\pL\pN_]([\pL\pN_.-]*[\pL\pN_])?$`)

// checkHost refuses what is neither a name nor an address. It does not quote that: it may be a DSN with its password.
func checkHost(host string) error {
	if host == "" {
		return errors.New("no host")
	}
	if _, err := netip.ParseAddr(host); err != nil && (len(host) > 253 || !hostName.MatchString(host)) {
		return errors.New("a host that is neither a name nor an address")
	}
	return nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// result is the end of each Discover: the list as it should be, or an error that says who found none.
func result(source string, endpoints []Endpoint, err error) ([]Endpoint, error) {
	var list []Endpoint
	if err == nil {
		list, err = Normalize(endpoints)
	}
	if err != nil {
		return nil, fmt.Errorf("hasql: discovery by %s: %w", source, err)
	}
	return list, nil
}
