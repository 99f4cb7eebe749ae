package hasql

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/random"
)

// monitor watches one node over a connection of its own. So a full pool does not look like a dead node, and a node that
// hangs delays no other node. The monitor sends a probe, then reads until the next probe is due. So it notices at once
// when its connection ends.
type monitor struct {
	node    *node
	checks  *checks // the node's
	cluster *clusterStore

	checkTimeout     time.Duration
	downTimeout      time.Duration
	recoveryInterval time.Duration // the least time between two probes of which nothing else says that one is due at once
	checkInterval    time.Duration
	checker          Checker
	config           *pgx.ConnConfig
	beforeConnect    func(context.Context, *pgx.ConnConfig) error // pgxpool's BeforeConnect; may be nil

	conn              *pgx.Conn
	probedAt          time.Time     // when the last probe began
	took              time.Duration // how long the answer to that probe took; zero if there was none
	dialledAt         time.Time     // when the last dial began
	noSignOfLifeSince time.Time     // since when the node has given no sign of life; zero if it gives one
	downProbeTimeout  time.Duration // how long the next probe may take once the node is down
	preparing         atomic.Bool   // whether a hook of the user is running, so that the node is not being probed
	hookTime          atomic.Int64  // nanoseconds that hooks have taken since the last call of noSignOfLife

	suggested       bool          // whether the last probe was only suggested
	suggestionPause time.Duration // between two suggested probes: zero at first, longer while they show nothing new
	lastEvidence    observation   // what the last probe showed

	backoff time.Duration // before the next dial: zero while there is a connection, longer with each dial while there is none

	reopenAfter time.Duration  // how old the session must be before a second one is opened because of doubts
	reopening   bool           // whether a second session is being opened
	reopened    chan *pgx.Conn // capacity 1: the second session, nil if opening it failed
}

func newMonitor(n *node, cluster *clusterStore, config *Config) *monitor {
	m := &monitor{
		node:             n,
		checks:           n.checks,
		cluster:          cluster,
		checkTimeout:     config.CheckTimeout,
		downTimeout:      config.DownTimeout,
		recoveryInterval: config.RecoveryInterval,
		checkInterval:    config.CheckInterval,
		checker:          config.Checker,
		config:           n.config.Pool.ConnConfig.Copy(),
		beforeConnect:    n.config.Pool.BeforeConnect,
		reopenAfter:      config.RecoveryInterval,
		reopened:         make(chan *pgx.Conn, 1),
	}
	m.config.Tracer = nil // probes are not the user's queries
	m.config.OnNotice = nil
	m.config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {} // without one pgx keeps them all
	m.config.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: pg.Conn()}
	}
	return m
}

// run probes until ctx ends. It returns once its connections are closed.
func (m *monitor) run(ctx context.Context) {
	defer m.disconnect()
	for ctx.Err() == nil {
		if again := m.probe(ctx); !again {
			m.depart()
			m.reopen(ctx)
			m.awaitNextProbe(ctx)
		}
	}
	if m.reopening {
		m.replace(<-m.reopened) // for disconnect to close
	}
}

// depart removes the node from the cluster when it is no longer listed and nothing of it is in use.
func (m *monitor) depart() {
	if n := m.cluster.snapshot().state(m.node); n != nil && n.unlisted && m.node.pool.Busy() == 0 {
		m.cluster.tell(departure{m.node, time.Now()})
	}
}

// reply is the result of one probe.
type reply struct {
	sent       time.Time // when the question was sent, after connecting
	report     Report
	err        error
	connected  bool // whether there was a connection to ask over
	connUsable bool // whether the Checker failed although the connection works, which shows that the server lives
}

// probe asks the node once and sends the observation. If the answer takes long, it first sends that the node is suspect
// and then that it is down. It reports whether to ask again at once.
func (m *monitor) probe(ctx context.Context) (again bool) {
	started := time.Now()
	m.probedAt, m.took = started, 0
	select {
	case <-m.checks.wanted: // this probe serves these requests; a caller that waits for a probe read checks.begun before its request
	default:
	}
	select {
	case <-m.checks.silence: // a signal from before this probe
	default:
	}
	m.checks.begun.Add(1)
	m.checks.underWay.Store(true)
	ask, giveUp := context.WithCancel(ctx)
	defer giveUp()
	answers := make(chan reply, 1)
	go func() { answers <- m.ask(ask) }()
	// One timer after the other: if this process was stopped for longer than both time-outs, the first timer must only make
	// nodes suspect when it continues, not down.
	timer := time.NewTimer(m.checkTimeout)
	defer timer.Stop()
	for {
		select {
		case a := <-answers:
			m.checks.underWay.Store(false) // before it is known, see WaitNextCheck
			return m.conclude(ctx, started, a)
		case <-m.checks.silence:
			m.probeOthers()
		case <-timer.C:
			status := m.noSignOfLife()
			m.send(observation{sent: started, status: status, cause: errUnanswered})
			if left := m.timeLeft(status, started); left > 0 {
				timer.Reset(min(left, m.checkTimeout)) // sent repeatedly, because ForgetCluster may have cleared the view
			} else {
				giveUp() // then the answer is an error, which the loop waits for
			}
		}
	}
}

// probeOthers looks for a new master while the present one answers neither its clients nor its monitor. The master may
// merely be slow, so each signal causes one probe of each node and no more. If another node has been promoted, this one
// becomes stale, and whoever waits for its answer waits no longer.
func (m *monitor) probeOthers() {
	s := m.cluster.snapshot()
	if n := s.state(m.node); n == nil || n.Role != RoleMaster {
		return
	}
	for i := range s.nodes {
		if n := s.nodes[i].node; n != m.node {
			n.checks.checkNow()
		}
	}
}

// timeLeft is how much longer to wait for the answer to a probe that began at started. A node that is down is asked again
// soon, because TCP repeats lost packets after longer and longer pauses. But the next probe may take longer, up to
// ConnectTimeout. Otherwise a node that takes longer than CheckTimeout to connect to would never come back.
func (m *monitor) timeLeft(status Status, started time.Time) time.Duration {
	if status != StatusDown {
		left := m.downTimeout - m.checkTimeout - time.Since(m.noSignOfLifeSince)
		if left <= 0 {
			left = m.checkTimeout // time is up, but a hook is running, so the node was not asked yet
		}
		return left
	}
	left := m.downProbeTimeout - time.Since(started)
	if left <= 0 {
		m.downProbeTimeout = min(2*m.downProbeTimeout, max(m.config.ConnectTimeout, m.checkTimeout))
	}
	return left
}

// ask connects if necessary and sends the question. One session that ends says nothing about the node, because somebody may
// be ending all sessions one by one. So ask tries up to three connections.
func (m *monitor) ask(ctx context.Context) reply {
	if m.checks.reconnect.Swap(false) {
		m.disconnect()
	}
	for try := 1; ; try++ {
		a := m.askOnce(ctx)
		if a.err == nil || m.conn != nil || ctx.Err() != nil || try == 3 || !a.connected && !pgerr.IsConnectionEnd(a.err) {
			return a
		}
	}
}

func (m *monitor) askOnce(ctx context.Context) (a reply) {
	if m.conn == nil {
		if a.err = m.connect(ctx); a.err != nil {
			return a
		}
	}
	a.connected, a.sent = true, time.Now()
	a.report, a.err = m.check(ctx)
	if a.err != nil && m.conn.IsClosed() {
		m.disconnect()
	}
	a.connUsable = a.err != nil && m.conn != nil && ctx.Err() == nil
	return a
}

// check calls the Checker, which may be the user's. A panic of a user's Checker must not end the monitor, or the node
// would keep its role for ever.
func (m *monitor) check(ctx context.Context) (report Report, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("checker panicked: %v", r)
		}
	}()
	return m.checker.Check(ctx, m.conn)
}

func (m *monitor) connect(ctx context.Context) (err error) {
	config := m.config.Copy()
	if m.beforeConnect != nil {
		began := time.Now()
		m.preparing.Store(true)
		err := m.beforeConnect(ctx, config)
		m.hookTime.Add(int64(time.Since(began)))
		m.preparing.Store(false)
		if err != nil {
			return &hookError{err}
		}
	}
	m.dialledAt = time.Now()
	m.conn, err = dialOnce(ctx, config)
	return err
}

// dialOnce connects. If connecting fails it leaves no connection behind.
func dialOnce(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	// pgx cleans up a failed connection by dialling a cancel request. That would hang as the probe did, and would last
	// longer than the monitor.
	var connected, heard atomic.Bool
	defer connected.Store(true)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, net.ErrClosed
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &answeringConn{conn, &heard}, nil
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		if heard.Load() && !pgerr.Is[*pgconn.PgError](err) && !pgerr.IsSilence(err) {
			err = &pgerr.RefusalError{Err: err}
		}
		return nil, err
	}
	return conn, nil
}

// reopen opens a second session if the answers of the present one may hold for that session only. The
// default_transaction_read_only of a role or database is fixed when a session begins. The present session is still asked
// meanwhile, so a server that accepts no more sessions keeps its role. Such a node costs one session after RecoveryInterval,
// then one per CheckInterval at most, and then fewer.
func (m *monitor) reopen(ctx context.Context) {
	if m.reopening || m.conn == nil || !m.dubious() || time.Since(m.dialledAt) < m.reopenAfter {
		return
	}
	m.reopening, m.dialledAt = true, time.Now()
	m.reopenAfter = min(max(2*m.reopenAfter, m.checkInterval), max(maxReopenPause, m.checkInterval))
	m.checks.contradicted.Store(false)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, m.downTimeout)
		defer cancel()
		config := m.config.Copy()
		if m.beforeConnect != nil && m.beforeConnect(ctx, config) != nil {
			m.reopened <- nil
			return
		}
		conn, _ := dialOnce(ctx, config)
		m.reopened <- conn
	}()
}

// maxReopenPause is the longest time between two sessions that are opened because of doubts, unless CheckInterval is
// longer.
const maxReopenPause = 5 * time.Second

// dubious reports whether the last answer may not hold for new sessions. That is so if it was an error, if the node
// refuses writes though it is not known to be a standby, or if it accepts writes though a new session was read-only.
func (m *monitor) dubious() bool {
	if m.checks.contradicted.Load() {
		return true
	}
	r := m.lastEvidence.report
	return r == nil || r.Role == RoleReplica && (!r.InRecovery || r.Limited != nil) &&
		m.conn.PgConn().ParameterStatus("in_hot_standby") != "on"
}

// replace takes over the session that reopen has opened, if there is one.
func (m *monitor) replace(conn *pgx.Conn) {
	if conn != nil {
		m.disconnect()
		m.conn = conn
	}
}

// disconnect closes the connection without waiting for the server.
func (m *monitor) disconnect() {
	if m.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.checkTimeout)
	defer cancel()
	_ = m.conn.Close(ctx)
	_ = m.conn.PgConn().Conn().Close() // also ends pgx's own clean-up if that drains a dead socket
	m.conn = nil
}

// conclude sends the observation that follows from a reply. A late answer is none.
func (m *monitor) conclude(ctx context.Context, started time.Time, a reply) (again bool) {
	if ctx.Err() != nil {
		return false
	}
	m.backOff(a.err)
	if a.err == nil {
		m.noSignOfLifeSince = time.Time{}
		if m.took = time.Since(a.sent); m.took > m.checkTimeout {
			return true // the answer is too old: a master that was frozen still takes itself for the master
		}
		m.send(observation{sent: a.sent, report: &a.report})
		return false
	}
	o := observation{sent: started, cause: pgerr.Redacted(a.err)}
	switch {
	case pgerr.Is[*hookError](a.err):
		o.status = StatusSuspect // the node wasn't even asked
	case !a.connected && pgerr.IsNoServer(a.err):
		o.status, o.noServer = StatusDown, true
	case pgerr.Is[*pgconn.PgError](a.err) || pgerr.Is[*pgerr.RefusalError](a.err) || a.connUsable:
		m.noSignOfLifeSince = time.Time{}
		o.status = StatusSuspect // the server refuses the login (wrong password, too many connections) or ends the session: it is alive
	default:
		o.status = m.noSignOfLife()
	}
	m.send(o)
	return false
}

// backOff sets how long after this probe the monitor may dial again. A probe over an open connection is cheap. A dial
// costs the server a process and a login, and a server that starts or recovers has other work. A server that refuses the
// login, and a failing hook of the user, will most likely do the same next time.
func (m *monitor) backOff(err error) {
	switch {
	case m.conn != nil:
		m.backoff = 0
	case pgerr.Is[*hookError](err), pgerr.IsLoginRefusal(err):
		m.backoff = m.checkInterval
	default:
		m.backoff = min(max(2*m.backoff, m.recoveryInterval), maxDialPause*m.recoveryInterval, m.checkInterval)
	}
}

// maxDialPause is the longest pause between two dials to a node that is down or starting, in RecoveryIntervals.
const maxDialPause = 25

// send passes the observation of this probe to the cluster.
func (m *monitor) send(o observation) {
	o.node, o.probe, o.at = m.node, m.checks.begun.Load(), time.Now()
	switch {
	case !m.suggested:
		m.suggestionPause = 0
	case !o.sameStateAs(&m.lastEvidence):
		m.suggestionPause = m.recoveryInterval
	default:
		m.suggestionPause = min(max(2*m.suggestionPause, m.recoveryInterval), m.checkInterval)
	}
	if !o.sameStateAs(&m.lastEvidence) {
		m.reopenAfter = min(m.reopenAfter, m.checkInterval)
	}
	m.suggested, m.lastEvidence = false, o
	// The node accepts writes again without having been a standby meanwhile. Sessions that began read-only stay read-only,
	// so they are closed before an acquire finds this master.
	if n := m.cluster.snapshot().state(m.node); n != nil && o.report != nil && o.report.writableAgain(&n.Report) {
		m.node.pool.Reset()
	}
	m.cluster.tell(o)
}

// noSignOfLife returns the status of a node that gave no sign of life to this probe: suspect at first, and down at the end of
// DownTimeout. It notes when that began. The time that a hook of the user takes does not count, because the node is not
// being asked meanwhile.
func (m *monitor) noSignOfLife() Status {
	if m.preparing.Load() {
		return StatusSuspect
	}
	hooked := time.Duration(m.hookTime.Swap(0))
	if m.noSignOfLifeSince.IsZero() {
		m.noSignOfLifeSince, m.downProbeTimeout = time.Now(), m.checkTimeout
	} else {
		m.noSignOfLifeSince = m.noSignOfLifeSince.Add(hooked)
	}
	if time.Since(m.noSignOfLifeSince) >= m.downTimeout-m.checkTimeout {
		return StatusDown
	}
	return StatusSuspect
}

// awaitNextProbe waits until the next probe is due, requested or suggested, or until the connection ends. The interval counts from the
// moment when the last probe was sent, because its evidence is that old. If the next probe needs a dial it waits for the
// back-off, whatever the reason for the probe.
func (m *monitor) awaitNextProbe(ctx context.Context) {
	backoff := random.Jittered(m.backoff)
	after := func(d time.Duration) time.Duration { return max(d, backoff) - time.Since(m.probedAt) }
	interval := m.cluster.snapshot().probeInterval(m.node, time.Now(), m.recoveryInterval, m.checkInterval)
	ctx, cancel := context.WithTimeout(ctx, max(random.Jittered(interval)-m.took, after(0)))
	defer cancel()
	var renewed *pgx.Conn
	defer func() { m.replace(renewed) }()
	watchEnded := make(chan struct{})
	if m.conn != nil {
		go func() {
			defer close(watchEnded)
			m.watch(ctx)
		}()
		defer func() {
			cancel()
			<-watchEnded
		}()
	}
	var due <-chan time.Time
	ended := watchEnded
	for {
		select {
		case <-m.checks.wanted:
			due = time.After(after(m.recoveryInterval))
			continue
		case <-m.checks.suggested:
			m.suggested = true
			if due == nil {
				due = time.After(after(m.suggestionPause))
			}
			continue
		case <-due:
			cancel()
		case <-ctx.Done():
		case <-ended:
			ended = nil
			due = time.After(m.recoveryInterval - time.Since(m.dialledAt)) // at once, unless connections keep ending
			continue
		case renewed = <-m.reopened:
			m.reopening = false
			if renewed == nil {
				continue
			}
			m.suggested = true
		}
		return
	}
}

// watch reads until ctx or the connection ends. The server sends nothing to an idle session until it ends that session.
func (m *monitor) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.conn.PgConn().WaitForNotification(ctx); err != nil && ctx.Err() == nil {
			m.disconnect()
			return
		}
	}
	if m.conn.IsClosed() {
		m.disconnect()
	}
}

// answeringConn records whether anything was read from it.
type answeringConn struct {
	net.Conn
	answered *atomic.Bool
}

func (c *answeringConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.answered.Store(true)
	}
	return n, err
}

// hookError is an error of the user's BeforeConnect, for example if a token service does not answer.
type hookError struct{ err error }

func (e *hookError) Error() string { return "BeforeConnect: " + e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }
