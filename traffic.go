package hasql

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// silence is how long nobody may hear a byte from a node that was asked something, before its monitor asks too.
	silence = 100 * time.Millisecond
	// sample is how many connections are lent for each whose parameter statuses are compared with the node's role: among
	// many all the same, and too dear for each. While a master is missing it is each, when it is released.
	sample = 16
)

// traffic is what the work on a node tells of it in passing. All of it is hints: they ask the monitor for a probe, which
// decides. Behind a pooler parameter statuses say nothing, since there a connection's may be another's, or old.
type traffic struct {
	hint       func()
	unheard    func()        // called again and again while nothing comes though a hint was given
	contradict func()        // a new session refuses writes though the node is taken for the master
	role       atomic.Uint32 // the node's Role, as far as the view goes
	standby    atomic.Bool   // whether it is in recovery, as far as the view goes
	pooled     atomic.Bool
	hunting    atomic.Bool // whether a master is missing
	look       atomic.Bool // whether the next connection that is released is looked at

	asked    atomic.Int64  // sockets that wait for an answer
	requests atomic.Uint64 // writes that began to
	answers  atomic.Uint64 // reads that brought something
	watching atomic.Bool   // whether the watch for silence runs
	shakenAt atomic.Int64  // nanoseconds since epoch: when a connection was lost last, 0 if that is long ago
}

// view tells what the node is taken for, so that what contradicts it is noticed, and whether a master is missing.
func (t *traffic) view(n *NodeState, hunting bool) {
	t.role.Store(uint32(n.Role))
	t.standby.Store(n.Report.InRecovery)
	t.pooled.Store(n.Report.Pooler)
	t.hunting.Store(hunting)
	if hunting {
		t.look.Store(true)
	}
}

// usable reports whether the node is up, as far as the view goes.
func (t *traffic) usable() bool { return Role(t.role.Load()) != RoleUnknown }

// listen adds to the handlers of a pool's connections, which keep their own say.
func (t *traffic) listen(config *pgx.ConnConfig) {
	onError, onNotice := config.OnPgError, config.OnNotice
	config.OnPgError = func(pg *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Code == "25006" {
			t.refused(pg)
		} else {
			t.heard(err.Code)
		}
		// pgx's own handler goes by the severity in the language of the server.
		ended := err.SeverityUnlocalized == "FATAL" || err.SeverityUnlocalized == "PANIC"
		return (onError == nil || onError(pg, err)) && !t.astray(pg, err.Code) && !ended
	}
	// A server that stops at once, or recovers from the crash of a backend, says so by a warning and no error.
	config.OnNotice = func(pg *pgconn.PgConn, notice *pgconn.Notice) {
		t.heard(notice.Code)
		if onNotice != nil {
			onNotice(pg, notice)
		}
	}
}

// refused takes a write refused by a node that is taken for the master for a hint. If the session began read-only, or does
// not tell, the monitor's own may be older than the setting that made it so.
func (t *traffic) refused(pg *pgconn.PgConn) {
	switch {
	case Role(t.role.Load()) != RoleMaster: // somebody writes to a replica; that is his mistake
	case beganReadOnly(pg) || pg.ParameterStatus("default_transaction_read_only") == "":
		t.contradict()
	default:
		t.hint()
	}
}

// beganReadOnly reports whether a session has refused writes since it began, by a setting of its role or database.
func beganReadOnly(pg *pgconn.PgConn) bool {
	s, ok := pg.CustomData()[socketKey].(*socket)
	return ok && s.readOnly && pg.ParameterStatus("default_transaction_read_only") == "on"
}

// began notes whether a new session refuses writes by default, which is news if the node is taken for the master.
func (t *traffic) began(pg *pgconn.PgConn, s *socket) {
	s.readOnly = pg.ParameterStatus("default_transaction_read_only") == "on"
	if s.readOnly && Role(t.role.Load()) == RoleMaster && !t.pooled.Load() {
		t.contradict()
	}
}

// heard takes a SQLSTATE for a hint if it is about the server and not about the statement: shutdown, crash and start-up
// (57P01 to 57P03), and broken connections (class 08). A full server (53300) and internal errors (XX000) say nothing of its
// role.
func (t *traffic) heard(code string) {
	switch {
	case code == "57P01", code == "57P02", code == "57P03":
		t.shake()
	case !strings.HasPrefix(code, "08"):
	case t.pooled.Load():
		t.shake() // the pooler has lost its server
	default:
		t.hint()
	}
}

// astray reports whether a write was refused though the node is the master, because the connection leads to a standby (the
// name or the proxy led elsewhere when it was made) or its session began read-only. Then it is closed, for it would refuse
// every write that it gets.
func (t *traffic) astray(pg *pgconn.PgConn, code string) bool {
	return code == "25006" && Role(t.role.Load()) == RoleMaster && !t.pooled.Load() &&
		(pg.ParameterStatus("in_hot_standby") == "on" || beganReadOnly(pg))
}

// shake notes that a connection has just been lost: the node may be gone, and its other connections with it. The monitor
// will know in a moment; until then those that were idle at this time are pinged before they are lent.
func (t *traffic) shake() {
	t.shakenAt.Store(int64(time.Since(epoch)))
	t.hint()
}

// shaken reports whether a connection that was idle for so long has not been used since the last loss of another one.
func (t *traffic) shaken(idle time.Duration) bool {
	ago, lately := t.lastLoss()
	return lately && idle >= ago
}

// lastLoss returns how long ago a connection was lost, unless that is so long that by now the monitor knows more.
func (t *traffic) lastLoss() (ago time.Duration, lately bool) {
	at := t.shakenAt.Load()
	if at == 0 {
		return 0, false
	}
	if ago = time.Since(epoch) - time.Duration(at); ago > time.Second {
		t.shakenAt.CompareAndSwap(at, 0)
		return 0, false
	}
	return ago, true
}

// epoch is some moment before all others.
var epoch = time.Now().Add(-time.Hour)

// compare looks at what the server reported on a connection, beside the node's role. PostgreSQL 14 and later tell every
// session of a promotion, and of a change of default_transaction_read_only, with the answer to its next statement.
func (t *traffic) compare(pg *pgconn.PgConn) {
	if t.pooled.Load() {
		return
	}
	standby := pg.ParameterStatus("in_hot_standby")
	if standby == "on" && !t.standby.Load() || standby == "off" && t.standby.Load() ||
		Role(t.role.Load()) == RoleMaster && pg.ParameterStatus("default_transaction_read_only") == "on" {
		t.hint()
	}
}

// sent notes that an answer is expected on a socket.
func (t *traffic) sent(s *socket) {
	if s.asked.Swap(true) {
		return
	}
	t.asked.Add(1)
	t.requests.Add(1)
	if !t.watching.Swap(true) {
		t.watch(t.requests.Load(), t.answers.Load(), 0)
	}
}

// received notes that the server is alive.
func (t *traffic) received(s *socket) {
	t.answers.Add(1)
	t.settled(s)
}

func (t *traffic) settled(s *socket) {
	if s.asked.Swap(false) {
		t.asked.Add(-1)
	}
}

// watch looks in half of silence again, for as long as answers are expected, and gives a hint when nothing at all came for
// all of silence: one, until something comes, and another whenever something more is asked. So a long query alone costs one
// probe. As long as it stays silent after that, it tells so each time.
func (t *traffic) watch(requests, answers uint64, quiet int) {
	time.AfterFunc(silence/2, func() {
		asked, came := t.requests.Load(), t.answers.Load()
		if came != answers {
			quiet = 0
		} else if quiet++; quiet == 2 || quiet > 2 && asked != requests {
			t.hint()
		}
		if quiet > 2 {
			t.unheard()
		}
		if t.asked.Load() == 0 {
			t.watching.Store(false)
			if t.asked.Load() == 0 || t.watching.Swap(true) {
				return
			}
		}
		t.watch(asked, came, quiet)
	})
}

// queryTracer is what pgx wants of every tracer, and does nothing.
type queryTracer struct{}

// TraceQueryStart does nothing.
func (queryTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (queryTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func withTracer(user, ours pgx.QueryTracer) pgx.QueryTracer {
	if user == nil {
		return ours
	}
	return multitracer.New(user, ours)
}

// releaseTracer sees the release of connections.
type releaseTracer struct {
	queryTracer
	pool *nodePool
}

// TraceRelease takes a connection off the load, and has a look at what the server said on it: now and then, and always
// during a hunt. pgxpool calls it first thing in Release.
func (t *releaseTracer) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	n, pg := t.pool, data.Conn.PgConn()
	if n.ended.Load() > 0 {
		n.closeEnded(data.Conn)
	}
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() != 'I' {
		n.unpooled(data.Conn) // pgxpool is going to destroy it, in a while
	}
	n.load.lent.Add(-1)
	if n.traffic.look.Load() {
		n.traffic.look.Store(n.traffic.hunting.Load())
		n.traffic.compare(pg)
	}
}
