package hasql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// monitor watches one node over a connection of its own, so that a full pool cannot look like a dead node and a hung
// node delays no other: it asks, then reads until the next question is due, which tells at once when the socket ends.
type monitor struct {
	node          int
	checkTimeout  time.Duration
	downTimeout   time.Duration
	minInterval   time.Duration // between two probes, whoever asks for them
	checkInterval time.Duration
	checker       Checker
	config        *pgx.ConnConfig
	prepare       func(context.Context, *pgx.ConnConfig) error // pgxpool's BeforeConnect; may be nil
	interval      func() time.Duration                         // until the next probe, as things stand
	observe       func(observation) bool
	wishes        chan struct{} // capacity 1: somebody waits for a probe
	hints         chan struct{} // capacity 1: something seen elsewhere suggests a probe

	// doubted is set for a probe that shows whether the node accepts sessions: one that is told to stop refuses new ones at
	// once, while an old one, the monitor's perhaps, may have a moment left.
	doubted atomic.Bool
	// contradicted is set when a session of the pool's shows that sessions which begin now may not write, though the
	// monitor's own may.
	contradicted atomic.Bool

	conn        *pgx.Conn
	probes      atomic.Uint64 // begun
	asking      atomic.Bool   // whether the last of them is under way
	askedAt     time.Time     // when the last probe began
	took        time.Duration // what its answer took, zero if there was none
	connectedAt time.Time     // when the last connection was begun to be made
	suspectAt   time.Time     // since when the node gives no sign of life, zero if it does
	leave       time.Duration // what the next question may take once the node is down
	preparing   atomic.Bool   // whether a hook of the user's runs, and the node is not even being asked
	hooked      atomic.Int64  // nanoseconds that hooks have taken since silent last looked

	hinted   bool          // whether the last probe was suggested by a hint
	patience time.Duration // between two probes for hints: none at first, longer while they show nothing new
	verdict  observation   // what the last one showed

	backoff time.Duration // before the next dial: none while there is a connection, longer and longer while there is none

	renewal  time.Duration  // how old the session must be before another one is made because of doubts
	renewing bool           // whether that is under way
	fresh    chan *pgx.Conn // capacity 1: what came of it, nil if nothing
}

func newMonitor(node int, config *Config, interval func() time.Duration, observe func(observation) bool) *monitor {
	pool := config.Nodes[node].Pool
	m := &monitor{
		node:          node,
		checkTimeout:  config.CheckTimeout,
		downTimeout:   config.DownTimeout,
		minInterval:   config.RecoveryInterval,
		checkInterval: config.CheckInterval,
		checker:       config.Checker,
		config:        pool.ConnConfig.Copy(),
		prepare:       pool.BeforeConnect,
		interval:      interval,
		observe:       observe,
		wishes:        make(chan struct{}, 1),
		hints:         make(chan struct{}, 1),
		renewal:       config.RecoveryInterval,
		fresh:         make(chan *pgx.Conn, 1),
	}
	m.config.Tracer = nil // probes are not the user's queries
	m.config.OnNotice = nil
	m.config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {} // without one pgx keeps them all
	m.config.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: pg.Conn()}
	}
	return m
}

// wish asks for a probe now, on behalf of somebody who waits for it. Wishes before it is sent are one.
func (m *monitor) wish() { notify(m.wishes) }

// hint suggests a probe because of something seen elsewhere. Hints before it is sent are one, and as long as they turn
// out to mean nothing they are heeded less and less often, at worst once per CheckInterval: so no pattern of errors in
// the traffic of a service becomes a load of probes.
func (m *monitor) hint() { notify(m.hints) }

// contradict suggests to ask over a new session, because one of the pool's shows that these may not write.
func (m *monitor) contradict() {
	m.contradicted.Store(true)
	m.hint()
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run probes until ctx ends. It returns once its connections are closed.
func (m *monitor) run(ctx context.Context) {
	defer m.disconnect()
	for ctx.Err() == nil {
		if again := m.probe(ctx); !again {
			m.renew(ctx)
			m.rest(ctx)
		}
	}
	if m.renewing {
		m.replace(<-m.fresh) // for disconnect to close
	}
}

// answer is what came of one question.
type answer struct {
	sent      time.Time // when the question itself was sent, after connecting
	report    Report
	err       error
	connected bool // whether there was a connection to ask over
	alive     bool // whether an error came from the Checker in time and left the connection usable
}

// probe asks the node once and sends what that shows: first, if the answer takes long, that the node is suspect and
// then down. It reports whether to ask again at once.
func (m *monitor) probe(ctx context.Context) (again bool) {
	started := time.Now()
	m.askedAt, m.took = started, 0
	select {
	case <-m.wishes: // this probe is what they wish for; those who count probes looked before they wished
	default:
	}
	m.probes.Add(1)
	m.asking.Store(true)
	ask, giveUp := context.WithCancel(ctx)
	defer giveUp()
	answers := make(chan answer, 1)
	go func() { answers <- m.ask(ask) }()
	// One timer after the other, so that a process that was stopped itself for longer than both does not wake up to find
	// every node down.
	timer := time.NewTimer(m.checkTimeout)
	defer timer.Stop()
	for {
		select {
		case a := <-answers:
			m.asking.Store(false) // before it is known, see WaitNextCheck
			return m.conclude(ctx, started, a)
		case <-timer.C:
			status := m.silent()
			m.send(observation{sent: started, status: status, cause: errUnanswered})
			if left := m.left(status, started); left > 0 {
				timer.Reset(min(left, m.checkTimeout)) // told again and again: the view may have been forgotten
			} else {
				giveUp() // and wait for the answer, which now is an error
			}
		}
	}
}

// left is how much longer to wait for the answer to the question that began then. A node that is down is asked again soon, as
// packets that were lost come again after longer and longer; but the question after that may take longer, up to what
// connecting may take: else a node that takes longer to connect to than CheckTimeout would never come back.
func (m *monitor) left(status Status, started time.Time) time.Duration {
	if status != StatusDown {
		left := m.downTimeout - m.checkTimeout - time.Since(m.suspectAt)
		if left <= 0 {
			left = m.checkTimeout // a hook is running
		}
		return left
	}
	left := m.leave - time.Since(started)
	if left <= 0 {
		m.leave = min(2*m.leave, max(m.config.ConnectTimeout, m.checkTimeout))
	}
	return left
}

// ask connects if need be and asks. A connection that ends says nothing about the node, so another one is tried, and one
// more, as somebody may be ending all sessions one by one.
func (m *monitor) ask(ctx context.Context) answer {
	if m.doubted.Swap(false) {
		m.disconnect()
	}
	for try := 1; ; try++ {
		a := m.askOnce(ctx)
		if a.err == nil || m.conn != nil || ctx.Err() != nil || try == 3 || !a.connected && !ended(a.err) {
			return a
		}
	}
}

func (m *monitor) askOnce(ctx context.Context) (a answer) {
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
	a.alive = a.err != nil && m.conn != nil && ctx.Err() == nil
	return a
}

// check calls the Checker, which may be the user's: a panic of his must not end the monitor, or the node would keep
// its role for ever.
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
	if m.prepare != nil {
		began := time.Now()
		m.preparing.Store(true)
		err := m.prepare(ctx, config)
		m.hooked.Add(int64(time.Since(began)))
		m.preparing.Store(false)
		if err != nil {
			return &hookError{err}
		}
	}
	m.connectedAt = time.Now()
	m.conn, err = dialOnce(ctx, config)
	return err
}

// dialOnce connects, and leaves nothing behind if that fails.
func dialOnce(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	// pgx cleans up a connection that failed by dialling a cancel request, which would hang as the probe did, and
	// outlive us.
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
		return &heardConn{conn, &heard}, nil
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		if heard.Load() && !is[*pgconn.PgError](err) && !unanswered(err) {
			err = &refusalError{err}
		}
		return nil, err
	}
	return conn, nil
}

// renew begins to make another session if the answers of the present one may be its own and not the node's. A role's or a
// database's default_transaction_read_only counts from the beginning of a session to its end. The present session goes on
// being asked meanwhile: a server that takes no more of them stays what it is. A node that is meant to be like this costs a
// session per CheckInterval at most, and fewer and fewer.
func (m *monitor) renew(ctx context.Context) {
	if m.renewing || m.conn == nil || !m.dubious() || time.Since(m.connectedAt) < m.renewal {
		return
	}
	m.renewing, m.connectedAt = true, time.Now()
	m.renewal = min(max(2*m.renewal, m.checkInterval), max(maxRenewal, m.checkInterval))
	m.contradicted.Store(false)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, m.downTimeout)
		defer cancel()
		config := m.config.Copy()
		if m.prepare != nil && m.prepare(ctx, config) != nil {
			m.fresh <- nil
			return
		}
		conn, _ := dialOnce(ctx, config)
		m.fresh <- conn
	}()
}

// maxRenewal is the longest time between two sessions that are made because of doubts, unless CheckInterval is longer.
const maxRenewal = 5 * time.Second

// dubious reports whether the last answer may be wrong of new sessions: it was an error, the node refuses writes though it is
// not known to be a standby, or it takes them though a new session has been refused.
func (m *monitor) dubious() bool {
	if m.contradicted.Load() {
		return true
	}
	r := m.verdict.report
	return r == nil || r.Role == RoleReplica && (!r.InRecovery || r.Limited != nil) &&
		m.conn.PgConn().ParameterStatus("in_hot_standby") != "on"
}

// replace takes the session that renew made, if it made one.
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
	_ = m.conn.PgConn().Conn().Close() // ends pgx's own clean-up too, should it be draining a dead socket
	m.conn = nil
}

// conclude sends the observation that an answer makes.
func (m *monitor) conclude(ctx context.Context, started time.Time, a answer) (again bool) {
	if ctx.Err() != nil {
		return false
	}
	m.backOff(a.err)
	if a.err == nil {
		m.suspectAt = time.Time{}
		if m.took = time.Since(a.sent); m.took > m.checkTimeout {
			return true // true when it was asked, perhaps no longer: a thawed master believes that it still is one
		}
		m.send(observation{sent: a.sent, report: &a.report})
		return false
	}
	o := observation{sent: started, cause: redacted(a.err)}
	switch {
	case is[*hookError](a.err):
		o.status = StatusSuspect // the node wasn't even asked
	case !a.connected && gone(a.err):
		o.status = StatusDown
	case is[*pgconn.PgError](a.err) || is[*refusalError](a.err) || a.alive:
		m.suspectAt = time.Time{}
		o.status = StatusSuspect // it refuses us (a wrong password, too many connections) or ends us, so it is alive
	default:
		o.status = m.silent()
	}
	m.send(o)
	return false
}

// backOff finds how long after this probe to dial again. A question over an open connection costs little; a dial costs a
// process and a log-in, and a server that starts, or recovers, has other work. Who refuses us, or the user's own hook, is not
// about to change his mind.
func (m *monitor) backOff(err error) {
	switch {
	case m.conn != nil:
		m.backoff = 0
	case is[*hookError](err), refusesLogin(err):
		m.backoff = m.checkInterval
	default:
		m.backoff = min(max(2*m.backoff, m.minInterval), maxDialPause*m.minInterval, m.checkInterval)
	}
}

// maxDialPause is the longest pause between two dials to a node that is down or starts, in RecoveryIntervals.
const maxDialPause = 25

// refusesLogin reports whether a server does, in contrast to one that starts or stops (class 57), or a pooler that has no
// server (08).
func refusesLogin(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return !strings.HasPrefix(pgErr.Code, "57") && !strings.HasPrefix(pgErr.Code, "08")
	}
	return is[*refusalError](err) && !ended(err)
}

// send hands the cluster what this probe showed.
func (m *monitor) send(o observation) {
	o.node, o.probe, o.at = m.node, m.probes.Load(), time.Now()
	switch {
	case !m.hinted:
		m.patience = 0
	case !o.says(&m.verdict):
		m.patience = m.minInterval
	default:
		m.patience = min(max(2*m.patience, m.minInterval), m.checkInterval)
	}
	if !o.says(&m.verdict) {
		m.renewal = min(m.renewal, m.checkInterval)
	}
	m.hinted, m.verdict = false, o
	m.observe(o)
}

// silent is the status of a node that gives no sign of life: suspect at first, down DownTimeout after the question that
// began it. While a hook of the user's runs the clock stands still, for the node is not being asked.
func (m *monitor) silent() Status {
	if m.preparing.Load() {
		return StatusSuspect
	}
	hooked := time.Duration(m.hooked.Swap(0))
	if m.suspectAt.IsZero() {
		m.suspectAt, m.leave = time.Now(), m.checkTimeout
	} else {
		m.suspectAt = m.suspectAt.Add(hooked)
	}
	if time.Since(m.suspectAt) >= m.downTimeout-m.checkTimeout {
		return StatusDown
	}
	return StatusSuspect
}

// gone reports whether the error of a connection attempt proves that no server accepts sessions at the address, in contrast
// to one that we cannot reach, find or log in to: a refused connection, one that ends at once, and the code of start-up
// and shutdown.
func gone(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == "57P03"
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	if ended(err) {
		return !is[*refusalError](err)
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Net == "unix" && errors.Is(err, syscall.ENOENT) // no socket file
}

// ended reports whether err is the end of a connection from the other side: by pg_terminate_backend or a shutdown (57P01),
// by the crash of another session (57P02), or without a word. See class 57 of
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
func ended(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == "57P01" || pgErr.Code == "57P02"
	}
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// heardConn notes whether anything was read from it.
type heardConn struct {
	net.Conn
	heard *atomic.Bool
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(true)
	}
	return n, err
}

// unanswered reports whether err is the end of a wait or comes from the network, in contrast to what the server said and to
// what we think of that. Neither an alert of TLS nor the end of the connection is silence.
func unanswered(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" || ended(err) {
		return false
	}
	return is[net.Error](err) || errors.Is(err, context.Canceled)
}

// refusalError is a connection attempt that failed although the node answered, and not with an error of PostgreSQL's: its
// certificate is not trusted, or ours is not; it has no TLS; it does not authenticate as it must.
type refusalError struct{ err error }

func (e *refusalError) Error() string { return e.err.Error() }
func (e *refusalError) Unwrap() error { return e.err }

// hookError is an error of the user's BeforeConnect, such as a token service that does not answer.
type hookError struct{ err error }

func (e *hookError) Error() string { return "BeforeConnect: " + e.err.Error() }
func (e *hookError) Unwrap() error { return e.err }

// rest waits until the next probe is due, wished for or hinted at, or until the connection ends. The time that an answer
// took counts: evidence is as old as its question. What would be a dial waits for the back-off, whoever asks for it.
func (m *monitor) rest(ctx context.Context) {
	backoff := jittered(m.backoff)
	after := func(d time.Duration) time.Duration { return max(d, backoff) - time.Since(m.askedAt) }
	ctx, cancel := context.WithTimeout(ctx, max(m.interval()-m.took, after(0)))
	defer cancel()
	var renewed *pgx.Conn
	defer func() { m.replace(renewed) }()
	lost := make(chan struct{})
	if m.conn != nil {
		go func() {
			defer close(lost)
			m.watch(ctx)
		}()
		defer func() {
			cancel()
			<-lost
		}()
	}
	var due <-chan time.Time
	ended := lost
	for {
		select {
		case <-m.wishes:
			due = time.After(after(m.minInterval))
			continue
		case <-m.hints:
			m.hinted = true
			if due == nil {
				due = time.After(after(m.patience))
			}
			continue
		case <-due:
			cancel()
		case <-ctx.Done():
		case <-ended:
			ended = nil
			due = time.After(m.minInterval - time.Since(m.connectedAt)) // at once, unless every connection ends so
			continue
		case renewed = <-m.fresh:
			m.renewing = false
			if renewed == nil {
				continue
			}
			m.hinted = true
		}
		return
	}
}

// watch reads until ctx ends or the connection does. The server sends nothing to an idle session but its end.
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

// briskHunt is how long a hunt looks often.
const briskHunt = 30 * time.Second

// huntInterval is how often to look for a master that has been missing for so long: often at first, when a failover is
// probably under way, and then less and less, so that a cluster that stays without one is left in peace.
func huntInterval(missing, recovery, check time.Duration) time.Duration {
	switch {
	case missing < 5*time.Second:
		return min(recovery, check)
	case missing < briskHunt:
		return min(5*recovery, check)
	case missing < 5*time.Minute:
		return min(25*recovery, check)
	}
	return check
}

// jittered spreads d by ±10 %, so that many clients do not probe in step.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*fraction()))
}
