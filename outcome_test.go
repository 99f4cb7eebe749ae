package hasql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/evidence"
	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

// sent are the ways of a service to have a statement under way, over the simple and the extended protocol.
var sent = map[string]func(ctx context.Context, pm *PoolManager) error{
	"Route.Exec": func(ctx context.Context, pm *PoolManager) error {
		_, err := pm.Master().Exec(ctx, slow)
		return err
	},
	"Route.Query": func(ctx context.Context, pm *PoolManager) error {
		rows, _ := pm.Master().Query(ctx, slow)
		rows.Close()
		return rows.Err()
	},
	"Route.QueryRow": func(ctx context.Context, pm *PoolManager) error {
		var name string
		return pm.Master().QueryRow(ctx, slow).Scan(&name)
	},
	"Route.QueryRow, simple": func(ctx context.Context, pm *PoolManager) error {
		var name string
		return pm.Master().QueryRow(ctx, slow, pgx.QueryExecModeSimpleProtocol).Scan(&name)
	},
	"Route.SendBatch": func(ctx context.Context, pm *PoolManager) error {
		b := new(pgx.Batch)
		b.Queue(slow)
		return pm.Master().SendBatch(ctx, b).Close()
	},
	"Route.Begin, statement": func(ctx context.Context, pm *PoolManager) error {
		return pgx.BeginFunc(ctx, pm.Master(), func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, slow)
			return err
		})
	},
	"Route.Begin, commit": func(ctx context.Context, pm *PoolManager) error {
		return pgx.BeginFunc(ctx, pm.Master(), func(tx pgx.Tx) error { return nil })
	},
	"Conn.Exec": func(ctx context.Context, pm *PoolManager) error {
		return pm.Master().AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			_, err := conn.Exec(ctx, slow)
			return err
		})
	},
	"Conn.Begin, commit": func(ctx context.Context, pm *PoolManager) error {
		return pm.Master().AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return nil })
		})
	},
}

// A retry that believes pgconn.SafeToRetry does twice what had taken effect before the connection ended.
func TestStatementInFlightIsNeverSafeToRetry(t *testing.T) {
	for end, does := range map[string]func(*pgfake.Node){
		"the server is killed":                    (*pgfake.Node).Kill,
		"the server recovers from a crash":        (*pgfake.Node).Crash,
		"the server stops at once":                (*pgfake.Node).StopImmediate,
		"the server hangs until its node is down": (*pgfake.Node).Freeze,
	} {
		for name, way := range sent {
			t.Run(end+"/"+name, func(t *testing.T) {
				bubble(t, func(t *testing.T, c *pgfake.Cluster) {
					c.Handle(slow, slowly, pgfake.Text("slow"))
					c.Handle("commit", func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
						_, err := slowly(s, args)
						return &pgfake.Result{Tag: "COMMIT"}, err
					})
					pm := open(t, c)
					ready(t, pm)
					at(500*time.Millisecond, func() { does(c.Node("pg1")) })
					err := way(t.Context(), pm)
					if pgconn.SafeToRetry(err) || Outcome(err) != Unknown || pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("safe to retry %v, %v, timeout %v: %v", pgconn.SafeToRetry(err), Outcome(err), pgconn.Timeout(err), err)
					}
					if err != nil && !strings.Contains(err.Error(), "pg1:5432") {
						t.Errorf("the error does not name the node: %v", err)
					}
				})
			})
		}
	}
}

// TLS may end before its socket does, and a user may have wrapped both.
func TestEndThatTheSocketDoesNotTellIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Handle(slow, slowly, pgfake.Text("slow"))
		pm := open(t, c, func(config *Config) {
			for _, n := range config.Nodes {
				n.Pool.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
					return &shortened{Conn: conn}, nil
				}
			}
		})
		if err := pm.Ready(t.Context(), 1, 2); err != nil {
			t.Fatal(err)
		}
		_, err := pm.Master().Exec(t.Context(), slow)
		if !pgerr.Is[*nodepool.EndError](err) || pgconn.SafeToRetry(err) || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "pg1:5432") {
			t.Errorf("safe to retry %v: %v", pgconn.SafeToRetry(err), err)
		}
	})
}

// shortened ends its reader when that waits for a second.
type shortened struct{ net.Conn }

func (c *shortened) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(900 * time.Millisecond))
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

func TestStatementThatWasNeverSentIsSafeToRetry(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		defer conn.Release()
		c.Node("pg1").Kill()
		if _, err := conn.Exec(t.Context(), "select 1"); err == nil || pgconn.SafeToRetry(err) {
			t.Errorf("it was written, though nobody was there to read it: %v", err)
		}
		if _, err := conn.Exec(t.Context(), "select 1"); !pgconn.SafeToRetry(err) {
			t.Errorf("the connection was known to be closed: %v", err)
		}
	})
}

// What waits for a notification has sent nothing, so pgx takes the first error for the end of a context and leaves the
// connection open.
func TestConnectionThatEndedWhileItListenedIsNotLentAgain(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		at(time.Second, func() { c.Node("pg1").Terminate(conn.Conn().PgConn().PID()) })
		_, err := conn.Conn().WaitForNotification(t.Context())
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "57P01" {
			t.Errorf("terminated: %v", err)
		}
		conn.Release()

		conn = acquire(t, pm.AcquireMaster)
		at(time.Second, c.Node("pg1").Crash)
		if _, err := conn.Conn().WaitForNotification(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("ended without a word: %v", err)
		}
		time.Sleep(5 * time.Second) // so that nobody suspects the others for its sake
		conn.Release()
		conn = acquire(t, pm.AcquireMaster)
		defer conn.Release()
		if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
			t.Errorf("lent though it had ended: %v", err)
		}
	})
}

func TestOutcomeOfErrors(t *testing.T) {
	serverError := func(severity, code string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Severity: "FEHLER", SeverityUnlocalized: severity, Code: code})
	}
	ended := nodepool.NewEndError("pg1:5432", io.EOF)
	cut := nodepool.NewEndError("pg1:5432", &NodeDownError{Node: "pg1:5432", Status: StatusStale})
	refused := &pgerr.ConnectError{Err: errors.New("connection refused")}
	for name, test := range map[string]struct {
		err  error
		want Verdict
	}{
		"none":                                {nil, Applied},
		"no row":                              {fmt.Errorf("order 7: %w", pgx.ErrNoRows), Applied},
		"no node":                             {&NoNodeError{ended: context.DeadlineExceeded}, NotApplied},
		"no node, a connection ended":         {&NoNodeError{tried: map[string]error{"pg1": &pgerr.ConnectError{Err: ended}}}, NotApplied},
		"no node, a probe was told to stop":   {&NoNodeError{Nodes: []NodeState{{Cause: serverError("FATAL", "57P01")}}}, NotApplied},
		"closed":                              {ErrClosed, NotApplied},
		"a connection was refused":            {refused, NotApplied},
		"the login was refused":               {&pgerr.ConnectError{Err: serverError("FATAL", "28P01")}, NotApplied},
		"not dialled again yet":               {&nodepool.DialBackoffError{Err: refused}, NotApplied},
		"not dialled, the node is down":       {&nodepool.FencedError{Err: &NodeDownError{}}, NotApplied},
		"a serialization failure":             {serverError("ERROR", "40001"), NotApplied},
		"a deadlock":                          {serverError("ERROR", "40P01"), NotApplied},
		"a constraint":                        {serverError("ERROR", "23505"), Refused},
		"a syntax error":                      {serverError("ERROR", "42601"), Refused},
		"a statement time-out":                {serverError("ERROR", "57014"), Refused},
		"a write refused":                     {serverError("ERROR", "25006"), Refused},
		"COMMIT answered by ROLLBACK":         {pgx.ErrTxCommitRollback, Refused},
		"a server without unlocalized":        {&pgconn.PgError{Severity: "ERROR", Code: "23505"}, Refused},
		"told to stop":                        {serverError("FATAL", "57P01"), Unknown},
		"a session ended for its idleness":    {serverError("FATAL", "25P03"), Unknown},
		"a pooler lost its server":            {serverError("ERROR", "08P01"), Unknown},
		"the server does not know":            {serverError("ERROR", "40003"), Unknown},
		"the connection ended":                {ended, Unknown},
		"the connection was cut":              {cut, Unknown},
		"cut by Close":                        {nodepool.NewEndError("pg1:5432", ErrClosed), Unknown},
		"ended, and the user's own of no row": {errors.Join(pgx.ErrNoRows, ended), Unknown},
		"the context ended":                   {context.DeadlineExceeded, Unknown},
		"a second commit":                     {pgx.ErrTxClosed, Unknown},
		"the user's own":                      {errors.New("sold out"), Unknown},
		"of InTx's function, that dialled":    {&rolledBackError{&pgconn.ConnectError{Config: new(pgconn.Config)}}, Refused},
		"unknown, and then it dialled":        {&strayedError{&pgconn.ConnectError{Config: new(pgconn.Config)}}, Unknown},
	} {
		if got := Outcome(test.err); got != test.want {
			t.Errorf("%s: %v, not %v: %v", name, got, test.want, test.err)
		}
		if safe := pgconn.SafeToRetry(test.err); safe && test.want != NotApplied {
			t.Errorf("%s: %v, and safe to retry: %v", name, test.want, test.err)
		}
	}
}

// What the acquire could not get was not sent; the SQLSTATE of a probe is not the statement's.
func TestErrorOfAnAcquireIsSafeToRetryAndNotAServerError(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, name := range []string{"pg1", "pg2", "pg3"} {
			c.Node(name).RefuseLogin("53300", "no")
		}
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = 3 * time.Second })
		_, err := pm.Master().Exec(t.Context(), "write $1", "a")
		if !pgconn.SafeToRetry(err) || Outcome(err) != NotApplied || pgerr.Is[*pgconn.PgError](err) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("safe to retry %v, %v, a server's %v: %v", pgconn.SafeToRetry(err), Outcome(err), pgerr.Is[*pgconn.PgError](err), err)
		}
		if n := err.(*NoNodeError).Nodes[0]; !pgerr.Is[*pgconn.PgError](n.Cause) || !errors.Is(err, n.Cause) {
			t.Errorf("the cause of %v: %v", n, n.Cause)
		}
	})
}

// Whoever dials for himself learns that nothing was sent.
func TestRefusedDialIsSafeToRetry(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		conn := acquire(t, pm.AcquireMaster)
		config := conn.Conn().Config()
		conn.Release()
		c.Node("pg1").Kill()
		if err := pm.WaitFor(t.Context(), func(s *Snapshot) bool { n, _ := s.Node("pg1:5432"); return n.Status == StatusDown }); err != nil {
			t.Fatal(err)
		}
		_, err := pgx.ConnectConfig(t.Context(), config)
		if !pgerr.Is[*NodeDownError](err) || !pgconn.SafeToRetry(err) || Outcome(err) != NotApplied {
			t.Errorf("safe to retry %v, %v: %v", pgconn.SafeToRetry(err), Outcome(err), err)
		}
	})
}

func TestCommitIDIsText(t *testing.T) {
	lost := lostCommit{marker: "public.hasql_commit", mark: &mark{client: newUUID(), slot: 7, seq: 1 << 40}}
	lost.trace = evidence.Trace{
		Node: "pg1:5432 (a=b&c)", SystemID: 1 << 63, XID: 1 << 40, LSN: 0x16B374D848, PID: 4711,
		Life: evidence.Life{Timeline: 3, Recovered: 0x9000A0, Started: 1795272102000001},
	}
	got, err := lost.id().parse()
	if err != nil || got.trace != lost.trace || *got.mark != *lost.mark || got.marker != lost.marker {
		t.Errorf("%s became %+v: %v", lost.id(), got, err)
	}
	for _, id := range []CommitID{"", "v=1", "v=2&node=pg1", "node=pg1", "v=1&node=pg1&xid=x", "v=1&node=pg1&marker=m&slot=1", "%"} {
		if _, err := id.parse(); err == nil {
			t.Errorf("%q was read", id)
		}
	}
}
