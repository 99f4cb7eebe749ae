package demo

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pghasql/hasql"
)

const (
	writers = 8
	readers = 8

	// pause is how long a client rests between two operations, so that the machine has time for the failover.
	pause = 2 * time.Millisecond

	// writeLimit is a writer's patience with one insert. It is far longer than a failover.
	writeLimit = 10 * time.Second
)

const schema = `
create table ledger (id bigint primary key, writer int not null, written_at timestamptz not null default now());
create table probe (at timestamptz not null default clock_timestamp())`

// The server's port tells which node did it.
const (
	insertSQL = `insert into ledger (id, writer) values ($1, $2) returning inet_server_port()`
	selectSQL = `select inet_server_port(), (select coalesce(max(id), 0) from ledger)`
)

// workload is an application: writers and readers that know nothing of nodes.
type workload struct {
	pm     *hasql.PoolManager
	began  time.Time
	nodeAt map[int]int // by port
	screen *screen

	wrote, answered, failed atomic.Int64
	master                  atomic.Int64  // the node that acknowledged last
	moved                   chan moment   // a write was acknowledged by another node than the one before
	stop                    chan struct{} // closed to end
	clients                 sync.WaitGroup

	// What each client did. Its own until it has ended.
	writes [writers][]write
	reads  [readers][]read
}

// moment is when a node did something.
type moment struct {
	node int
	at   time.Time
}

// start lets the clients loose; master is the node that serves the writers. The clients end at finish or, without
// finishing what they are at, when ctx ends.
func (w *workload) start(ctx context.Context, master int) {
	w.moved = make(chan moment, 16)
	w.stop = make(chan struct{})
	w.master.Store(int64(master))
	for i := range writers {
		w.clients.Go(func() { w.write(ctx, i) })
	}
	for i := range readers {
		w.clients.Go(func() { w.read(ctx, i) })
	}
}

// finish lets every client finish its operation and returns when all have. It may be called once.
func (w *workload) finish() {
	close(w.stop)
	w.clients.Wait()
}

func (w *workload) write(ctx context.Context, writer int) {
	route := w.pm.Master()
	for sequence := int64(1); w.rest(ctx); sequence++ {
		id := int64(writer)<<32 | sequence
		port := 0
		limited, cancel := context.WithTimeout(ctx, writeLimit)
		err := route.QueryRow(limited, insertSQL, id, writer).Scan(&port)
		cancel()
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		node := nobody
		if err == nil {
			node = w.nodeAt[port]
			w.wrote.Add(1)
			w.notice(node, now)
		} else {
			w.failed.Add(1)
			w.screen.aside(now, fmt.Sprintf("writer %d, outcome unknown: %v", writer+1, brief(err)))
		}
		w.writes[writer] = append(w.writes[writer], write{id, now.Sub(w.began), node})
	}
}

// notice sends a moment when the writers have moved to another node.
func (w *workload) notice(node int, at time.Time) {
	if was := w.master.Load(); was == int64(node) || !w.master.CompareAndSwap(was, int64(node)) {
		return
	}
	select {
	case w.moved <- moment{node, at}:
	default: // nobody cares that it moves so often
	}
}

func (w *workload) read(ctx context.Context, reader int) {
	route := w.pm.Replica()
	for w.rest(ctx) {
		var port int
		var id int64
		limited, cancel := context.WithTimeout(ctx, readLimit)
		err := route.QueryRow(limited, selectSQL).Scan(&port, &id)
		cancel()
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		node := nobody
		if err == nil {
			node = w.nodeAt[port]
			w.answered.Add(1)
		} else {
			w.failed.Add(1)
			w.screen.aside(now, fmt.Sprintf("reader %d: %v", reader+1, brief(err)))
		}
		w.reads[reader] = append(w.reads[reader], read{now.Sub(w.began), node})
	}
}

// rest pauses, and reports whether to go on.
func (w *workload) rest(ctx context.Context) bool {
	select {
	case <-time.After(pause):
		return true
	case <-w.stop:
	case <-ctx.Done():
	}
	return false
}

// report writes a line each second until the workload ends.
func (w *workload) report(ctx context.Context) {
	seconds := time.NewTicker(time.Second)
	defer seconds.Stop()
	var wrote, answered, failed int64
	for {
		select {
		case <-w.stop:
			return
		case <-ctx.Done():
			return
		case <-seconds.C:
		}
		t := tick{writes: w.wrote.Load() - wrote, reads: w.answered.Load() - answered, failed: w.failed.Load() - failed}
		wrote, answered, failed = wrote+t.writes, answered+t.reads, failed+t.failed
		snapshot := w.pm.Snapshot()
		for n := range snapshot.Masters() {
			t.master = n.Name
		}
		for n := range snapshot.Nodes() {
			t.nodes = append(t.nodes, condition(n))
		}
		w.screen.tick(time.Now(), t)
	}
}

// condition is a node's role, or why it has none.
func condition(n hasql.NodeState) string {
	if n.Status == hasql.StatusUp {
		return n.Role.String()
	}
	return n.Status.String()
}

// newPoolManager makes what the application works through: hasql as it is out of the box, with names for the nodes and
// ears for the story.
func newPoolManager(ctx context.Context, dsn string, names []string, s *screen) (*hasql.PoolManager, error) {
	config, err := hasql.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	for i := range config.Nodes {
		config.Nodes[i].Name = names[i]
	}
	config.Hooks = hasql.Hooks{
		NodeChanged: func(old, new hasql.NodeState) {
			text := fmt.Sprintf("hasql: %s %s → %s", new.Name, condition(old), condition(new))
			if new.Cause != nil {
				text += ": " + brief(new.Cause)
			}
			s.aside(time.Now(), text)
		},
		MasterChanged: func(old, new hasql.NodeState, gap time.Duration) {
			text := fmt.Sprintf("hasql: master lost: %s", old.Name)
			if new.Name != "" {
				text = fmt.Sprintf("hasql: master found: %s, after %s without", new.Name, Millis(gap))
			}
			s.aside(time.Now(), text)
		},
	}
	return hasql.NewWithConfig(ctx, config)
}
