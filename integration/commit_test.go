package integration

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// thief takes the answer to the next COMMIT away: the connection ends for the client once the test lets it.
type thief struct {
	armed atomic.Bool
	// before is called when COMMIT is about to be sent; if it returns false it is not sent, and the server's session stays open.
	before func() (send bool)
	// late sends what was not sent, and returns when the server has answered it, or has ended the session.
	late func()
	// sent is called once it was sent, nil if there is nothing to do. Then the connection ends.
	sent func()
}

// steal arms a thief on every connection of a configuration.
func (th *thief) steal(c *hasql.Config) {
	for _, n := range c.Nodes {
		dial := n.Pool.ConnConfig.DialFunc
		n.Pool.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &stolen{Conn: conn, thief: th}, nil
		}
	}
}

type stolen struct {
	net.Conn
	thief     *thief
	lost      atomic.Bool // nothing goes either way
	answering atomic.Bool // what comes before the answer to COMMIT still arrives
}

func (s *stolen) Write(b []byte) (int, error) {
	if s.lost.Load() {
		return 0, syscall.ECONNRESET
	}
	if !bytes.Contains(b, []byte("commit\x00")) || !s.thief.armed.CompareAndSwap(true, false) {
		return s.Conn.Write(b)
	}
	if s.thief.before != nil && !s.thief.before() {
		s.lost.Store(true)
		held := bytes.Clone(b)
		s.thief.late = func() {
			_, _ = s.Conn.Write(held)
			for answer := make([]byte, 4096); ; {
				if n, err := s.Conn.Read(answer); err != nil || bytes.Contains(answer[:n], []byte{'Z', 0, 0, 0, 5}) {
					return
				}
			}
		}
		return len(b), nil
	}
	s.answering.Store(true)
	n, err := s.Conn.Write(b)
	if s.thief.sent != nil {
		s.thief.sent()
	}
	return n, err
}

func (s *stolen) Read(b []byte) (int, error) {
	if s.lost.Load() {
		return 0, syscall.ECONNRESET
	}
	n, err := s.Conn.Read(b)
	if s.answering.Load() {
		answer := bytes.Index(b[:n], []byte("COMMIT\x00"))
		if answer < 0 {
			return n, err
		}
		s.lost.Store(true)
		if n = max(0, answer-5); n == 0 { // the tag follows a type and a length
			return 0, syscall.ECONNRESET
		}
	}
	return n, err
}

// Close leaves the server's session alone, as a network does that is cut.
func (s *stolen) Close() error {
	if s.lost.Load() {
		time.AfterFunc(patience, func() { s.Conn.Close() })
		return nil
	}
	return s.Conn.Close()
}

// waysToCommit are ways of InTx to learn what tells the outcome.
var waysToCommit = map[string]struct {
	options hasql.TxOptions
	simple  bool
}{
	"with BEGIN":                       {},
	"with BEGIN, simple protocol":      {simple: true},
	"repeatable read":                  {options: hasql.TxOptions{TxOptions: pgx.TxOptions{IsoLevel: pgx.RepeatableRead}}},
	"serializable":                     {options: hasql.TxOptions{TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}}},
	"serializable, simple protocol":    {options: hasql.TxOptions{TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}}, simple: true},
	"it may only read":                 {options: hasql.TxOptions{MayOnlyRead: true}},
	"a mark":                           {options: hasql.TxOptions{Marker: "hasql_commit"}},
	"a mark, simple protocol":          {options: hasql.TxOptions{Marker: "hasql_commit"}, simple: true},
	"a mark, serializable":             {options: hasql.TxOptions{Marker: "hasql_commit", TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}}},
	"a mark, serializable and simple":  {options: hasql.TxOptions{Marker: "hasql_commit", TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}}, simple: true},
	"a mark in the order of a service": {options: hasql.TxOptions{Marker: "public.hasql_commit", MayOnlyRead: true}},
	"a mark, serializable in vain":     {options: hasql.TxOptions{Marker: "hasql_commit", TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable, BeginQuery: "begin"}}},
}

// shop makes a table of orders, and one of marks.
func shop(t testing.TB, n server) {
	t.Helper()
	execute(t, n, "create table orders (id int, attempt int)")
	execute(t, n, hasql.CommitMarkerSQL("hasql_commit"))
}

// orderInTx writes an order.
func orderInTx(ctx context.Context, m *manager, id int, options hasql.TxOptions) error {
	return m.InTx(ctx, options, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into orders values ($1, $2)", id, hasql.Attempt(ctx))
		return err
	})
}

// attempts returns the attempts that have left an order.
func attemptsOf(t testing.TB, n server, id int) []int {
	t.Helper()
	rows, err := connect(t, n).Query(testContext(t), "select attempt from orders where id = $1", id)
	must(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[int])
	must(t, err)
	return list
}

func simpleProtocol(on bool) func(*hasql.Config) {
	return func(c *hasql.Config) {
		for _, n := range c.Nodes {
			if on {
				n.Pool.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
			}
		}
	}
}

// A COMMIT whose answer is lost while the master lives on: it was done, or its session is still open and gets it when the verdict
// has been told.
func TestLostAnswerOfAMasterThatLivesOn(t *testing.T) {
	for name, way := range waysToCommit {
		for _, level := range []string{"replica", "logical"} {
			t.Run(name+"/"+level, func(t *testing.T) {
				t.Parallel()
				ctx := testContext(t)
				cluster := startCluster(t, pgcluster.Options{Parameters: map[string]string{"wal_level": level}})
				n := cluster.Nodes()[0]
				shop(t, n)
				th := &thief{}
				m := openReady(t, cluster, th.steal, simpleProtocol(way.simple))

				must(t, orderInTx(ctx, m, 1, way.options))
				th.sent = func() { awaitOrder(t, n, 2) }
				th.armed.Store(true)
				if err := orderInTx(ctx, m, 2, way.options); err != nil {
					t.Errorf("it was committed: %v", err)
				}
				if got := attemptsOf(t, n, 2); len(got) != 1 || got[0] != 1 || th.armed.Load() {
					t.Errorf("committed in attempts %v", got)
				}

				th.before = func() bool { return false }
				th.armed.Store(true)
				err := orderInTx(ctx, m, 3, way.options)
				th.late()
				unknown := pgerrIs[*hasql.CommitUnknownError](err)
				got := attemptsOf(t, n, 3)
				late := way.options.Marker == "" && !way.simple && (way.options.IsoLevel != "" || way.options.MayOnlyRead)
				switch {
				case late && unknown && len(got) <= 1: // what tells the outcome was lost with COMMIT
				case err != nil || len(got) != 1 || got[0] != 2:
					t.Errorf("committed in attempts %v: %v", got, err)
				}
			})
		}
	}
}

func pgerrIs[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// awaitOrder waits until an order can be seen.
func awaitOrder(t testing.TB, n server, id int) {
	for len(attemptsOf(t, n, id)) == 0 {
	}
}
