package hasql

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// moved reports whether a session that ended with err was one of a node that is being shut down or restarted, and so
// whether what it was at may be tried again on the next. It waits for the word of a probe about that, CheckTimeout at
// most.
//
// A shutdown in order ends sessions with the error 57P01. What a session was at is undone then: once a transaction has
// committed, PostgreSQL answers before it looks for such an order again, and a session that waits for synchronous
// replication is ended by a warning and without an answer (ProcessInterrupts and SyncRepWaitForLSN in its source).
// pg_terminate_backend sends the same error; but there somebody wanted this very session to end, and the node stays.
func (r *Route) moved(ctx context.Context, n *nodePool, err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != "57P01" || n == nil || n.traffic.pooled.Load() {
		return false // a pooler sends such errors in its own name, whatever became of the statement
	}
	i := slices.Index(r.pm.pools, n)
	was := &r.pm.cluster.snapshot().nodes[i]
	begun := r.pm.monitors[i].probes.Load()
	r.pm.monitors[i].wishAnew()
	moved := false
	err = r.pm.await(ctx, "probe of "+n.name, func(s *Snapshot) bool {
		now := &s.nodes[i]
		moved = now.Status != StatusUp || now.Role != was.Role || restarted(was, now)
		return moved || now.probe > begun
	})
	return err == nil && moved
}

// poolOf returns the pool that a connection was made by.
func poolOf(conn *pgxpool.Conn) *nodePool {
	if s, ok := conn.Conn().PgConn().CustomData()[socketKey].(*socket); ok {
		return s.pool
	}
	return nil
}

// repeatable reports whether a statement can be undone as a whole: it is a single one, and of a kind that cannot commit
// by itself in its middle, as CALL, DO and VACUUM can. What is not plainly so is not repeated.
func repeatable(sql string) bool {
	sql = afterComments(sql)
	if i := strings.IndexByte(sql, ';'); i >= 0 && afterComments(sql[i+1:]) != "" {
		return false
	}
	end := strings.IndexFunc(sql, func(r rune) bool { return (r|0x20) < 'a' || (r|0x20) > 'z' })
	if end < 0 {
		return false // a word alone is the name of a prepared statement
	}
	switch strings.ToLower(sql[:end]) {
	case "select", "insert", "update", "delete", "merge", "with", "values", "table":
		return true
	}
	return false
}

// afterComments returns what follows the white space and comments at the beginning of sql.
func afterComments(sql string) string {
	for {
		sql = strings.TrimSpace(sql)
		var found bool
		switch {
		case strings.HasPrefix(sql, "--"):
			_, sql, found = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			_, sql, found = strings.Cut(sql, "*/")
		default:
			return sql
		}
		if !found {
			return ""
		}
	}
}
