package nodepool

import (
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgerr"
)

// MaxSilence is how long nothing may come from a node that was asked something, before its monitor is asked to probe it.
const MaxSilence = 100 * time.Millisecond

// traffic collects what the traffic of a node shows about it. It only suggests probes to the monitor, which decides.
// Behind a pooler it ignores parameter statuses, because they may belong to another connection or be old.
type traffic struct {
	observer     TrafficObserver
	master       atomic.Bool // from NodeStatus, like the next four
	reachable    atomic.Bool
	standby      atomic.Bool
	behindPooler atomic.Bool
	hunting      atomic.Bool
	sampleNext   atomic.Bool // whether the next released connection is compared

	awaiting        atomic.Int64  // sockets that wait for an answer
	requestCount    atomic.Uint64 // writes after which a socket began to wait for an answer
	readCount       atomic.Uint64 // reads that returned data
	watchingSilence atomic.Bool   // whether watchSilence runs
	lossAt          atomic.Int64  // when a connection was lost last, in nanoseconds since epoch; 0 if that is long ago
}

// TrafficObserver learns what the traffic on the connections of a node suggests. Its methods are called often and must not block.
type TrafficObserver interface {
	// SuggestCheck is called when something suggests that the node has changed.
	SuggestCheck()
	// Contradict is called when the node is known as the master, and a session suggests that new sessions are read-only: it
	// began read-only, or it has refused a write and its server does not report whether sessions begin read-only.
	Contradict()
	// OnSilence is called every 50 ms (half of MaxSilence) while the silence lasts on which SuggestCheck was called.
	OnSilence()
}

// NodeStatus is what the pool has to know of its node's state.
type NodeStatus struct {
	Master    bool // its sessions may write
	Standby   bool // it is in recovery
	Reachable bool // connections to it can be expected to work
	Pooler    bool // a pooler stands before it
	Hunting   bool // no master is known
}

// SetNodeStatus tells the pool the state of the node, so that the pool notices what contradicts it.
func (p *Pool) SetNodeStatus(status NodeStatus) {
	t := &p.traffic
	t.master.Store(status.Master)
	t.reachable.Store(status.Reachable)
	t.standby.Store(status.Standby)
	t.behindPooler.Store(status.Pooler)
	t.hunting.Store(status.Hunting)
	if status.Hunting {
		t.sampleNext.Store(true)
	}
}

// SampleNext makes the next released connection be compared with the node's state.
func (p *Pool) SampleNext() { p.traffic.sampleNext.Store(true) }

// listen adds handlers to the user's handlers of a pool's connections. After an error the connection is closed if the user's
// handler says so, if the connection would refuse every later write, or if the error ends the session.
func (t *traffic) listen(config *pgx.ConnConfig) {
	onError, onNotice := config.OnPgError, config.OnNotice
	config.OnPgError = func(pg *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Code == pgerr.ReadOnlySQLTransaction {
			t.noteRefusedWrite(pg)
		} else {
			t.noteCode(err.Code)
		}
		return (onError == nil || onError(pg, err)) && !t.refusesWrites(pg, err.Code) && !pgerr.EndsSession(err)
	}
	// A server that stops at once, or recovers from the crash of a backend, says so by a warning and no error.
	config.OnNotice = func(pg *pgconn.PgConn, notice *pgconn.Notice) {
		t.noteCode(notice.Code)
		if notice.Routine == "SyncRepWaitForLSN" { // its texts are in the language of the server
			if s, ok := pg.CustomData()[socketKey].(*Socket); ok {
				s.unreplicated = true
			}
		}
		if onNotice != nil {
			onNotice(pg, notice)
		}
	}
}

// noteRefusedWrite suggests a probe when a node that is known as the master has refused a write. If the session began
// read-only, or that is unknown, the monitor's own session may be older than the setting that caused the refusal.
func (t *traffic) noteRefusedWrite(pg *pgconn.PgConn) {
	switch {
	case !t.master.Load(): // the application writes to a replica by mistake
	case beganReadOnly(pg) || pg.ParameterStatus("default_transaction_read_only") == "":
		t.observer.Contradict()
	default:
		t.observer.SuggestCheck()
	}
}

// beganReadOnly reports whether a session has been read-only since it began, by a setting of its role or database.
func beganReadOnly(pg *pgconn.PgConn) bool {
	s, ok := pg.CustomData()[socketKey].(*Socket)
	return ok && s.readOnly && pg.ParameterStatus("default_transaction_read_only") == "on"
}

// noteSession records whether a new session is read-only by default. That contradicts a node that is known as the master.
func (t *traffic) noteSession(pg *pgconn.PgConn, s *Socket) {
	s.readOnly = pg.ParameterStatus("default_transaction_read_only") == "on"
	if s.readOnly && t.master.Load() && !t.behindPooler.Load() {
		t.observer.Contradict()
	}
}

// noteCode suggests a probe if a SQLSTATE is about the server and not about the statement: the server stops, has crashed
// or starts, or a connection has broken. A full server and internal errors say nothing about its role.
func (t *traffic) noteCode(code string) {
	switch {
	case pgerr.IsServerStop(code):
		t.noteLoss()
	case !pgerr.InClass(code, pgerr.ConnectionException):
	case t.behindPooler.Load():
		t.noteLoss() // the pooler has lost its server
	default:
		t.observer.SuggestCheck()
	}
}

// refusesWrites reports whether a connection must be closed because it has refused a write, although the node is the master,
// and would refuse every later write. Either the connection leads to a standby, because the name or the proxy led elsewhere
// when it was made, or its session began read-only.
func (t *traffic) refusesWrites(pg *pgconn.PgConn, code string) bool {
	return code == pgerr.ReadOnlySQLTransaction && t.master.Load() && !t.behindPooler.Load() &&
		(pg.ParameterStatus("in_hot_standby") == "on" || beganReadOnly(pg))
}

// noteLoss records that a connection was just lost. The node may be gone, and with it the other connections. Until the
// monitor knows, connections that were idle at this time are pinged before they are lent.
func (t *traffic) noteLoss() {
	t.lossAt.Store(int64(time.Since(epoch)))
	t.observer.SuggestCheck()
}

// lostSince reports whether a connection that has been idle for this long was last used before the last loss of another
// one.
func (t *traffic) lostSince(idle time.Duration) bool {
	ago, lately := t.lastLoss()
	return lately && idle >= ago
}

// LostLately reports whether a connection was lost within the last second.
func (p *Pool) LostLately() bool {
	_, lately := p.traffic.lastLoss()
	return lately
}

// lastLoss returns how long ago a connection was lost. After a second lately is false, because the monitor knows more by
// then.
func (t *traffic) lastLoss() (ago time.Duration, lately bool) {
	at := t.lossAt.Load()
	if at == 0 {
		return 0, false
	}
	if ago = time.Since(epoch) - time.Duration(at); ago > time.Second {
		t.lossAt.CompareAndSwap(at, 0)
		return 0, false
	}
	return ago, true
}

// epoch is a fixed time in the past, so that differences to it are positive.
var epoch = time.Now().Add(-time.Hour)

// compare compares what the server has reported on a connection with the node's role. PostgreSQL 14 and later tell every
// session of a promotion, and of a change of default_transaction_read_only, with the answer to its next statement.
func (t *traffic) compare(pg *pgconn.PgConn) {
	if t.behindPooler.Load() {
		return
	}
	standby := pg.ParameterStatus("in_hot_standby")
	if standby == "on" && !t.standby.Load() || standby == "off" && t.standby.Load() ||
		t.master.Load() && pg.ParameterStatus("default_transaction_read_only") == "on" {
		t.observer.SuggestCheck()
	}
}

// sent records that an answer is expected on a socket.
func (t *traffic) sent(s *Socket) {
	if s.awaiting.Swap(true) {
		return
	}
	t.awaiting.Add(1)
	t.requestCount.Add(1)
	if !t.watchingSilence.Swap(true) {
		t.watchSilence(t.requestCount.Load(), t.readCount.Load(), 0)
	}
}

// received records that the server is alive.
func (t *traffic) received(s *Socket) {
	t.readCount.Add(1)
	t.done(s)
}

func (t *traffic) done(s *Socket) {
	if s.awaiting.Swap(false) {
		t.awaiting.Add(-1)
	}
}

// watchSilence looks every 50 ms (half of MaxSilence) for as long as answers are expected. It suggests a probe when nothing
// at all came during MaxSilence, and another one whenever something more was asked while still nothing came. So one long
// query costs one probe. While the silence lasts it also calls OnSilence each time.
func (t *traffic) watchSilence(requests, reads uint64, silent int) {
	time.AfterFunc(MaxSilence/2, func() {
		nowRequests, nowReads := t.requestCount.Load(), t.readCount.Load()
		if nowReads != reads {
			silent = 0
		} else if silent++; silent == 2 || silent > 2 && nowRequests != requests {
			t.observer.SuggestCheck()
		}
		if silent > 2 {
			t.observer.OnSilence()
		}
		if t.awaiting.Load() == 0 {
			t.watchingSilence.Store(false)
			if t.awaiting.Load() == 0 || t.watchingSilence.Swap(true) {
				return
			}
		}
		t.watchSilence(nowRequests, nowReads, silent)
	})
}
