package hasql

import (
	"slices"
	"sync"
	"weak"

	"github.com/jackc/pgx/v5/pgxpool"
)

// followers are the pools that follow a route. A pool that nobody references any more drops out.
type followers struct {
	mu     sync.Mutex
	pools  []weak.Pointer[pgxpool.Pool]
	closed bool
}

// add registers a pool that is to be closed with the PoolManager. It returns false if the PoolManager has closed its
// pools already.
func (f *followers) add(pool *pgxpool.Pool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools = slices.DeleteFunc(f.pools, func(p weak.Pointer[pgxpool.Pool]) bool { return p.Value() == nil })
	if !f.closed {
		f.pools = append(f.pools, weak.Make(pool))
	}
	return !f.closed
}

// all returns every pool. No pool can be added after that.
func (f *followers) all() (pools []*pgxpool.Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, p := range f.pools {
		if pool := p.Value(); pool != nil {
			pools = append(pools, pool)
		}
	}
	return pools
}
