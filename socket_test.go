package hasql

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgfake"
)

// breaking is a connection that ends by a write once there were so many after it was armed.
type breaking struct {
	net.Conn
	writes *atomic.Int64 // that still succeed; none fails as long as it is negative
}

func (c *breaking) Write(b []byte) (int, error) {
	if c.writes.Load() == 0 {
		return 0, syscall.EPIPE
	}
	if c.writes.Load() > 0 {
		c.writes.Add(-1)
	}
	return c.Conn.Write(b)
}

// The last write of a COPY may be one of which nothing went out. The server has received those before all the same, and
// their source has been read.
func TestCopyWhoseWriteFailsIsNeverSafeToRetry(t *testing.T) {
	for i := range 20 { // what pgx notices first, the failed write or the end of its reader, is up to chance
		lines := []int{1, 100_000}[i%2] // the end of the data is not written, or data
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			c.HandlePrefix("copy ", slowly)
			var writes atomic.Int64
			writes.Store(-1)
			pm := open(t, c, everyPool(func(p *pgxpool.Config) {
				p.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := c.Dial(ctx, network, addr)
					return &breaking{conn, &writes}, err
				}
			}))
			ready(t, pm)
			conn := acquire(t, pm.AcquireMaster)
			defer conn.Release()
			writes.Store(2) // the statement and the first data
			source := strings.NewReader(strings.Repeat("a line\n", lines))
			_, err := conn.Conn().PgConn().CopyFrom(t.Context(), source, "copy t from stdin")
			writes.Store(-1)
			if err == nil || pgconn.SafeToRetry(err) || Outcome(err) != Unknown {
				t.Errorf("%d lines: safe to retry %v, %v: %v", lines, pgconn.SafeToRetry(err), Outcome(err), err)
			}
			if source.Len() == int(source.Size()) {
				t.Error("nothing was read")
			}
		})
	}
}

// A service that listens does so for a while each time. pgx leaves the connection open when the time is over.
func TestEndAfterACallersTimeoutIsALoss(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		lost := func() bool { return poolsOf(pm)[0].LostLately() }
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := conn.Conn().WaitForNotification(ctx); !errors.Is(err, context.DeadlineExceeded) || conn.Conn().IsClosed() {
			t.Fatalf("connection closed %v: %v", conn.Conn().IsClosed(), err)
		}
		if lost() {
			t.Error("the caller's timeout counts as a loss")
		}
		at(time.Second, c.Node("pg1").Kill)
		if _, err := conn.Conn().WaitForNotification(t.Context()); err == nil || !lost() {
			t.Errorf("noted %v: %v", lost(), err)
		}
	})
}
