package pgfake

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// One master, random faults, no promotion: an acknowledged write is never lost,
// none happens twice, and everything ends.
func TestAcknowledgedWritesSurviveFaults(t *testing.T) {
	for seed := range uint64(4) {
		bubble(t, func(t *testing.T, c *Cluster) {
			n := c.Node("pg1")
			w := writers{t: t, node: n, until: time.Now().Add(time.Minute)}
			for i := range 4 {
				w.running.Go(func() { w.write(i) })
			}
			shake(rand.New(rand.NewPCG(seed, 0)), n, w.until)
			w.running.Wait()
			checkLog(t, n, w.acknowledged)
		})
	}
}

// shake breaks and mends the node until then, and leaves it mended.
func shake(r *rand.Rand, n *Node, until time.Time) {
	faults := []func(){
		n.Kill, n.Stop, n.StopImmediate, n.Crash, n.TerminateAll, n.Freeze, n.Cut,
		func() { n.StartingUp(true) },
		func() { n.Latency(time.Duration(r.Int64N(int64(time.Second)))) },
	}
	for time.Now().Before(until) {
		for range r.IntN(3) {
			faults[r.IntN(len(faults))]()
			time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
		}
		for _, i := range r.Perm(3) {
			[]func(){n.Heal, n.Thaw, n.Start}[i]()
		}
		n.StartingUp(false)
		n.Latency(0)
		time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
	}
}

// writers write tokens of their own and note what the server acknowledged.
type writers struct {
	t            *testing.T
	node         *Node
	until        time.Time
	running      sync.WaitGroup
	mu           sync.Mutex
	acknowledged []string
}

func (w *writers) write(id int) {
	p := pool(w.t, w.node, 1)
	for i := 0; time.Now().Before(w.until); i++ {
		token := fmt.Sprintf("%d-%d", id, i)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "write $1", token)
			return err
		})
		cancel()
		if err == nil {
			w.mu.Lock()
			w.acknowledged = append(w.acknowledged, token)
			w.mu.Unlock()
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func checkLog(t *testing.T, n *Node, acknowledged []string) {
	t.Helper()
	times := make(map[string]int)
	for _, token := range tokens(n) {
		if times[token]++; times[token] > 1 {
			t.Errorf("%s was written %d times", token, times[token])
		}
	}
	for _, token := range acknowledged {
		if times[token] == 0 {
			t.Errorf("%s was acknowledged and lost", token)
		}
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d writes were acknowledged", len(acknowledged))
	}
	t.Logf("%d acknowledged of %d", len(acknowledged), len(times))
}
