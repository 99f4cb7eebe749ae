package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"time"
)

// holdings are the resources that must not leak.
type holdings struct {
	library     int // goroutines of hasql and pgx
	goroutines  int // of this process
	descriptors int // of files and sockets
	sessions    int // of the services, on all servers
}

func (h holdings) String() string {
	return fmt.Sprintf("%d goroutines, %d of them the library's, %d file descriptors, %d sessions", h.goroutines, h.library, h.descriptors, h.sessions)
}

// exceeds reports whether h has more of anything than limit.
func (h holdings) exceeds(limit holdings) bool {
	return h.library > limit.library || h.goroutines > limit.goroutines ||
		h.descriptors > limit.descriptors || h.sessions > limit.sessions
}

// atRest returns the limit for services without work: as many goroutines of the library as in h, and on each server the
// connections that a pool may keep and one of the monitor.
func (t *testbed) atRest(h holdings) holdings {
	return holdings{
		library: h.library, goroutines: math.MaxInt, descriptors: math.MaxInt,
		sessions: len(t.services) * len(t.nodes) * (maxConns + 1),
	}
}

// count counts the present holdings. It has closed its own connections by then.
func (t *testbed) count(ctx context.Context) (h holdings, err error) {
	for _, n := range t.nodes {
		conn, err := n.Conn(ctx)
		if err != nil {
			return h, err
		}
		here := 0
		err = conn.QueryRow(ctx, `select count(*) from pg_stat_activity where application_name = $1`, application).Scan(&here)
		conn.Close(ctx)
		if err != nil {
			return h, err
		}
		h.sessions += here
	}
	open, err := os.ReadDir("/proc/self/fd")
	h.descriptors, h.goroutines = len(open), runtime.NumGoroutine()
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		if works(stack) {
			h.library++
		}
	}
	return h, err
}

// works reports whether a goroutine belongs to hasql or pgx. The goroutine that pgx starts for a slow write does not count:
// it reads until the next answer on its connection, which does not come while the clients rest.
func works(stack string) bool {
	ours := strings.Contains(stack, "github.com/jackc/") || strings.Contains(stack, "github.com/pghasql/hasql.")
	return ours && !strings.Contains(stack, "(*BGReader).bgRead(")
}

// settle waits until the holdings do not exceed limit, and returns them.
func (t *testbed) settle(ctx context.Context, limit holdings) (h holdings, err error) {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		if h, err = t.count(ctx); err != nil || !h.exceeds(limit) {
			return h, err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return h, fmt.Errorf("leaked: there are %v, and the limit is %v:\n%s", h, limit, stacks())
		}
	}
}

// stacks returns the stacks of all goroutines.
func stacks() string {
	text := make([]byte, 1<<20)
	return string(text[:runtime.Stack(text, true)])
}
