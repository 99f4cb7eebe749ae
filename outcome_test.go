package hasql

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

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
					if err == nil || pgconn.SafeToRetry(err) || pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("safe to retry %v, timeout %v: %v", pgconn.SafeToRetry(err), pgconn.Timeout(err), err)
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
		if !is[*endError](err) || pgconn.SafeToRetry(err) || !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "pg1:5432") {
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
