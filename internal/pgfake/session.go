package pgfake

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Session is one connection, seen from the server. Its methods are for handlers
// and belong to the goroutine that runs them.
type Session struct {
	node    *Node
	link    *link
	pid     uint32
	secret  [4]byte
	backend *pgproto3.Backend
	ctx     context.Context // ends with the session
	cancel  context.CancelCauseFunc

	// Guarded by Cluster.mu.

	ready       bool                    // logged in
	gone        bool                    // ended by a fault; nothing commits any more
	committed   bool                    // a commit is in the log and not answered yet
	cancelQuery context.CancelCauseFunc // of the running statement; nil between two

	// Owned by serve.

	params          map[string]string // of the startup message
	reported        map[string]string // parameters as the client knows them
	begunReadOnly   *bool             // the setting that it began with; nil if that is the node's
	defaultReadOnly *bool             // the session's own setting, at first the same
	tx              transaction
	statements      map[string]*statement
	portals         map[string]*portal
	skipping        bool            // after an error in the extended protocol, until Sync
	describing      bool            // the running handler is asked for its columns only
	query           context.Context // of the running statement
}

func newSession(n *Node, l *link, pid uint32) *Session {
	ctx, cancel := context.WithCancelCause(context.Background())
	end := serverEnd{l}
	return &Session{
		node:       n,
		link:       l,
		pid:        pid,
		secret:     [4]byte{0xfa, 0x5e, byte(pid >> 8), byte(pid)},
		backend:    pgproto3.NewBackend(end, end),
		ctx:        ctx,
		cancel:     cancel,
		query:      ctx,
		tx:         transaction{status: 'I'},
		statements: make(map[string]*statement),
		portals:    make(map[string]*portal),
	}
}

// Node is the server of this session.
func (s *Session) Node() *Node { return s.node }

// PID is the backend's process id, as in BackendKeyData.
func (s *Session) PID() uint32 { return s.pid }

// Param returns a parameter of the startup message: "user", "database",
// "application_name", …
func (s *Session) Param(name string) string { return s.params[name] }

// TxStatus is 'I' outside a transaction block, 'T' inside, 'E' in a failed one.
func (s *Session) TxStatus() byte { return s.tx.status }

// ReadOnly is transaction_read_only of the running transaction, fixed when it
// began: promotion does not change it.
func (s *Session) ReadOnly() bool { return s.tx.readOnly }

// Describing reports whether the handler runs only to learn its columns. Sleep
// and Write do nothing then.
func (s *Session) Describing() bool { return s.describing }

// Context ends when the statement is cancelled or its session ended by a fault
// or by Cluster.Close. As in PostgreSQL, a client that goes away does not end it.
func (s *Session) Context() context.Context { return s.query }

// Sleep is a statement that takes d. It returns early, with the error to
// answer, when the statement is cancelled; frozen time counts, but Sleep does
// not return in it.
func (s *Session) Sleep(d time.Duration) error {
	if s.describing {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.link.awaitThaw()
		return nil
	case <-s.query.Done():
		return context.Cause(s.query)
	}
}

// Read is a statement on a table that LockTable may have locked: it waits for the
// lock to be released, and returns early as Sleep does.
func (s *Session) Read() error {
	for !s.describing {
		unlock := s.node.cluster.lock()
		locked := s.node.locked
		unlock()
		if locked == nil {
			break
		}
		select {
		case <-locked:
			s.link.awaitThaw()
		case <-s.query.Done():
			return context.Cause(s.query)
		}
	}
	return nil
}

// Write appends token to the log when the transaction commits, or returns the
// error 25006 to answer in a read-only transaction.
func (s *Session) Write(token string) error {
	if s.describing {
		return nil
	}
	if s.tx.readOnly {
		return Errorf("25006", "cannot execute INSERT in a read-only transaction")
	}
	s.tx.writes = append(s.tx.writes, token)
	return nil
}

// Notice sends a WARNING with the answer.
func (s *Session) Notice(code, message string) {
	e := &Error{Severity: "WARNING", Code: code, Message: message}
	n := pgproto3.NoticeResponse(*e.response())
	s.backend.Send(&n)
}

// serve is the goroutine of the session.
func (s *Session) serve() {
	defer s.end()
	if !s.startup() {
		return
	}
	for {
		msg, err := s.backend.Receive()
		if err != nil || !s.link.awaitThaw() || !s.handle(msg) {
			return
		}
	}
}

// handle works on one message and reports whether the session goes on.
func (s *Session) handle(msg pgproto3.FrontendMessage) bool {
	var err error
	switch msg := msg.(type) {
	case *pgproto3.Query:
		return s.simpleQuery(msg.String)
	case *pgproto3.Sync:
		return s.sync()
	case *pgproto3.Terminate:
		return false
	case *pgproto3.Flush:
		return s.backend.Flush() == nil
	default:
		if s.skipping {
			return true
		}
		err = s.extended(msg)
	}
	if err == nil {
		return true
	}
	s.skipping = true
	return s.fail(err)
}

// fail sends err, fails the transaction and reports whether the session goes on.
func (s *Session) fail(err error) bool {
	if errors.Is(err, ErrHangUp) {
		return false
	}
	e := serverError(err)
	s.tx.fail()
	s.backend.Send(e.response())
	if e.ends() {
		s.flush()
		return false
	}
	return true
}

// flush sends what is buffered; if the connection is gone, the next read tells.
func (s *Session) flush() { _ = s.backend.Flush() }

// readyForQuery ends an answer, after the parameters that changed meanwhile.
func (s *Session) readyForQuery() bool {
	now := s.parameters()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if s.reported[name] != now[name] {
			s.backend.Send(&pgproto3.ParameterStatus{Name: name, Value: now[name]})
		}
	}
	s.reported = now
	s.backend.Send(&pgproto3.ReadyForQuery{TxStatus: s.tx.status})
	return s.answer() == nil
}

// parameters returns the reported parameters that can change during a session.
func (s *Session) parameters() map[string]string {
	defer s.node.cluster.lock()()
	reported := s.node.reportedLocked()
	if reported != nil && s.defaultReadOnly != nil {
		reported["default_transaction_read_only"] = onOff(*s.defaultReadOnly)
	}
	return reported
}

// run calls a handler, cancellable.
func (s *Session) run(r *route, args []string) (*Result, error) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	s.setQuery(ctx, cancel)
	defer s.setQuery(s.ctx, nil)
	res, err := r.handler(s, args)
	if err != nil && errors.Is(context.Cause(ctx), errCanceled) {
		err = Errorf("57014", "canceling statement due to user request")
	}
	return res, err
}

func (s *Session) setQuery(ctx context.Context, cancel context.CancelCauseFunc) {
	defer s.node.cluster.lock()()
	s.query, s.cancelQuery = ctx, cancel
}

// end is the session's own: its client has gone, or the server ends it politely.
func (s *Session) end() {
	defer s.node.cluster.lock()()
	s.endLocked([]byte{})
}

// answer sends what is buffered, and with it the word of what was committed: in one step, so that whoever ends the session
// afterwards does not take it for the end of a commit that nobody was told of.
func (s *Session) answer() error {
	defer s.node.cluster.lock()()
	s.committed = false
	return s.backend.Flush()
}

// endLocked closes the connection after its last words, or as a dead process if
// they are nil, and lets serve return. Who has committed and not said so yet gives
// no error, which would mean the contrary, but a warning: as PostgreSQL does where
// it waits for synchronous replication.
func (s *Session) endLocked(lastWords []byte) {
	if s.committed && len(lastWords) > 0 {
		lastWords = notice("57P01", "canceling the wait for synchronous replication and terminating connection due to administrator command")
	}
	s.gone = true
	s.cancel(nil)
	delete(s.node.sessions, s.pid)
	if lastWords == nil {
		s.link.kill()
		return
	}
	s.link.hangUp(lastWords)
}
