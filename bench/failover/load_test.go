package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

// fake takes its time for each operation.
type fake struct {
	wait func(ctx context.Context, id int64) error
	subject
}

func (f *fake) write(ctx context.Context, id int64) (int, error) { return 5432, f.wait(ctx, id) }
func (f *fake) read(ctx context.Context) (int, error)            { return 5433, f.wait(ctx, 0) }

// takes waits for so long, or until ctx ends.
func takes(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newLoad(wait func(context.Context, int64) error, readers int) *load {
	return &load{
		loadOptions: loadOptions{readers: readers, pause: 1 * ms, limit: 100 * ms},
		subject:     &fake{wait: wait},
		nodeAt:      map[int]int{5432: 0, 5433: 1},
	}
}

func TestClientsWorkOneOperationAfterTheOther(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		l := newLoad(func(ctx context.Context, _ int64) error { return takes(ctx, 4*ms) }, 2)
		zero := time.Now()
		l.start(t.Context())
		time.Sleep(52 * ms) // the clock of the bubble
		l.rest()
		ops := l.ops(zero)
		if len(ops) != 3*11 {
			t.Fatalf("%d operations, want 11 of each client", len(ops))
		}
		for i, o := range ops[:11] {
			want := op{write: true, id: int64(i + 1), start: time.Duration(i) * 5 * ms, end: time.Duration(i)*5*ms + 4*ms}
			if o != want {
				t.Errorf("write %d: %+v, want %+v", i, o, want)
			}
		}
		if o := ops[11]; o != (op{client: 1, end: 4 * ms, node: 1}) {
			t.Errorf("first read: %+v", o)
		}
	})
}

func TestOperationBeyondItsLimitFailsAndOneBrokenOffDoesNotCount(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		l := newLoad(func(ctx context.Context, _ int64) error { return takes(ctx, time.Hour) }, 0)
		zero := time.Now()
		l.start(t.Context())
		time.Sleep(150 * ms)
		l.stop()
		ops := l.ops(zero)
		if len(ops) != 1 || ops[0].node != nobody || ops[0].end != 100*ms || ops[0].err != context.DeadlineExceeded.Error() {
			t.Errorf("got %+v", ops)
		}
	})
}

func TestIdsGoOnAfterARest(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		refused := errors.New("refused")
		l := newLoad(func(_ context.Context, id int64) error {
			if id == 1 {
				return refused
			}
			return nil
		}, 0)
		for range 2 {
			l.start(t.Context())
			synctest.Wait()
			l.rest()
		}
		ops := l.ops(time.Now())
		if len(ops) != 2 || ops[0].id != 1 || ops[0].err != "refused" || ops[1].id != 2 || ops[1].node != 0 {
			t.Errorf("got %+v", ops)
		}
	})
}
