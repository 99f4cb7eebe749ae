package integration

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
)

// deeds inserts numbers in a way of its own for as long as a test likes, each once, and remembers what it was told of each.
// The table takes a number twice, so what was repeated shows.
type deeds struct {
	t    testing.TB
	stop context.CancelFunc
	all  sync.WaitGroup
	next atomic.Int64
	tick chan struct{} // capacity 1: somebody got on
	acks []atomic.Int64

	mu     sync.Mutex
	acked  []int64
	failed map[int64]error
}

const createDeeds = "create table if not exists deeds (id bigint)"

const insertDeed = "insert into deeds values ($1)"

// startDeeds has n goroutines do it, by an exec that runs insertDeed, or does the same. The numbers follow first.
func startDeeds(t testing.TB, n int, first int64, exec func(ctx context.Context, id int64) error) *deeds {
	t.Helper()
	ctx, stop := context.WithCancel(testContext(t))
	d := &deeds{t: t, stop: stop, tick: make(chan struct{}, 1), acks: make([]atomic.Int64, n), failed: make(map[int64]error)}
	d.next.Store(first)
	t.Cleanup(func() {
		stop()
		d.all.Wait()
	})
	for i := range n {
		d.all.Go(func() {
			for ctx.Err() == nil {
				id := d.next.Add(1)
				err := exec(ctx, id)
				if ctx.Err() != nil {
					return
				}
				d.note(id, err)
				if err == nil {
					d.acks[i].Add(1)
				}
				select {
				case d.tick <- struct{}{}:
				default:
				}
			}
		})
	}
	return d
}

func (d *deeds) note(id int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.failed[id] = err
	} else {
		d.acked = append(d.acked, id)
	}
}

// progress waits until everybody has got n more acknowledgements.
func (d *deeds) progress(n int64) {
	d.t.Helper()
	ctx := testContext(d.t)
	goals := make([]int64, len(d.acks))
	for i := range d.acks {
		goals[i] = d.acks[i].Load() + n
	}
	for {
		done := true
		for i := range d.acks {
			done = done && d.acks[i].Load() >= goals[i]
		}
		if done {
			return
		}
		select {
		case <-d.tick:
		case <-ctx.Done():
			d.mu.Lock()
			defer d.mu.Unlock()
			d.t.Fatalf("stuck; failures: %v", d.failed)
		}
	}
}

// end stops them and checks that master has each number that was acknowledged, and none twice. It returns why those
// failed whose connection did not end.
func (d *deeds) end(master server) (others []error) {
	d.t.Helper()
	d.stop()
	d.all.Wait()
	conn := connect(d.t, master)
	if n := scan[int](d.t, conn, "select count(*) from unnest($1::bigint[]) as id where id not in (select id from deeds)", d.acked); n > 0 {
		d.t.Errorf("%d of %d acknowledged are missing", n, len(d.acked))
	}
	if n := scan[int](d.t, conn, "select count(*) from (select id from deeds group by id having count(*) > 1) as twice"); n > 0 {
		d.t.Errorf("%d were done twice", n)
	}
	for _, err := range d.failed {
		if !endOfConnection(err) {
			others = append(others, err)
		}
	}
	d.t.Logf("%d acknowledged, %d failed, %d of them otherwise than by the end of a connection", len(d.acked), len(d.failed), len(others))
	return others
}

// endOfConnection reports whether a statement failed because its connection ended under it.
func endOfConnection(err error) bool {
	_, cut := errors.AsType[*hasql.NodeDownError](err)
	pgErr, told := errors.AsType[*pgconn.PgError](err)
	return cut || told && pgErr.SeverityUnlocalized == "FATAL" || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
