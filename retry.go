package hasql

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// moved reports whether a session that ended with err was one of a node that is being shut down or restarted, and so
// whether what it was at may be tried again on the next. It waits for the word of a probe about that, CheckTimeout at
// most.
//
// A shutdown in order ends sessions with FATAL 57P01. What a session was at is undone then: PostgreSQL looks for such an
// order only where nothing has committed that it has not answered, and a session that waits for synchronous replication is
// ended by a warning and without an answer (ProcessInterrupts and SyncRepWaitForLSN in its source). There is one exception,
// which callers must heed: in the simple protocol the tag of a statement that has committed may come before the order is
// obeyed. pg_terminate_backend sends the same error; but there somebody wanted this very session to end, and the node
// stays.
func (r *Route) moved(ctx context.Context, n *nodePool, err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.Code != "57P01" || pgErr.SeverityUnlocalized != "FATAL" || n == nil {
		return false
	}
	i := slices.Index(r.pm.pools, n)
	was := &r.pm.cluster.snapshot().nodes[i]
	if was.Report.Pooler || was.Report.Limited != nil {
		return false // somebody else may say so in his own name, whatever became of the statement
	}
	monitor := r.pm.monitors[i]
	monitor.doubted.Store(true)
	begun := monitor.probes.Load()
	monitor.wish()
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
func repeatable(sql string, args []any) bool {
	if rewritten(args) {
		return false
	}
	sql = afterComments(sql)
	if i := strings.IndexByte(sql, ';'); i >= 0 && afterComments(sql[i+1:]) != "" {
		return false
	}
	word, rest := sql, ""
	if i := strings.IndexFunc(sql, func(r rune) bool { return (r|0x20) < 'a' || (r|0x20) > 'z' }); i >= 0 {
		word, rest = sql[:i], sql[i:]
	}
	if !strings.ContainsAny(rest[:min(1, len(rest))], " \t\r\n\f\v(*'\"") {
		return false // part of a longer name, which may be that of any prepared statement
	}
	switch strings.ToLower(word) {
	case "select", "insert", "update", "delete", "merge", "with", "values", "table":
		return true
	}
	return false
}

// rewritten reports whether an argument makes another statement of it.
func rewritten(args []any) bool {
	for _, arg := range args {
		switch arg.(type) {
		case pgx.NamedArgs, pgx.StrictNamedArgs:
		case pgx.QueryRewriter:
			return true
		}
	}
	return false
}

// afterComments returns what follows the white space and comments at the beginning of sql: nothing if a comment does not
// end, or holds another one.
func afterComments(sql string) string {
	for {
		sql = strings.TrimSpace(sql)
		switch {
		case strings.HasPrefix(sql, "--"):
			end := strings.IndexAny(sql, "\r\n")
			if end < 0 {
				return ""
			}
			sql = sql[end:]
		case strings.HasPrefix(sql, "/*"):
			comment, rest, ended := strings.Cut(sql[2:], "*/")
			if !ended || strings.Contains(comment, "/*") {
				return ""
			}
			sql = rest
		default:
			return sql
		}
	}
}
