package hasql

import (
	"time"

	"github.com/pghasql/hasql/discovery"
)

// Discoverer says which nodes the cluster has at the moment. Package [discovery] has those for DNS, Patroni, files and AWS;
// anything with this method will do:
//
//	Discover(ctx context.Context) ([]Endpoint, error)
//
// Discover returns every node of the cluster, whatever its role and whether it answers or not: roles and health come from
// probes alone. It may block until ctx ends, and is called by one goroutine at a time unless a caller shares it between
// several [PoolManager]. A [Watcher] is watched by another goroutine meanwhile. A panic counts as an error. The list belongs
// to the caller. An error, and a list without nodes, mean that nothing is known: they remove no node.
//
// The interface is defined in package discovery, so that this package can name discoverers in a DSN without an import cycle.
type Discoverer = discovery.Discoverer

// Watcher is an optional interface of a [Discoverer], found by assertion, for sources that notice changes by themselves:
//
//	Watch(ctx context.Context) iter.Seq2[[]Endpoint, error]
//
// The sequence begins with the present list and goes on with each list that differs from the one before. An error in it
// means what an error of Discover means, and does not end it. It ends when ctx ends or the loop over it breaks.
type Watcher = discovery.Watcher

// Endpoint is one node as a [Discoverer] knows it: where it is, and what to call it. What it does not say, such as the user, the
// password, TLS and the settings of the pool, is as in the DSN.
//
//	type Endpoint struct {
//		Name, Host string
//		Port       uint16
//		Addr       netip.Addr
//		Zone       string
//		Tags       map[string]string
//	}
//
// See [discovery.Endpoint] for each field.
type Endpoint = discovery.Endpoint

// DiscoveryStat tells how the last calls of a [Discoverer] ended.
type DiscoveryStat struct {
	LastSuccess time.Time // when the last good answer came, zero if there was none
	LastFailure time.Time // when the last call failed, zero if none has
	LastError   error     // why; nil if none has. It stays when there is a good answer again
}

// Failing reports whether the last call failed.
func (s DiscoveryStat) Failing() bool { return s.LastFailure.After(s.LastSuccess) }
