package hasql

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
)

// origin is the state of a statement's node at the time when the connection was lent; nil if that is unknown.
type origin = *NodeState

// originOf returns the state, in lent, of the node that a held connection belongs to.
func (r *Route) originOf(conn *pgxpool.Conn, lent *Snapshot) origin {
	pool := nodepool.Of(conn.Conn())
	for i := range lent.nodes {
		if n := &lent.nodes[i]; n.node.pool == pool {
			return n
		}
	}
	return nil
}

// awaitShutdownProof reports whether the session of a statement was ended with err because its node goes out of service, so that
// the statement may run again. It waits for a probe that begins now: CheckTimeout at most, unless the monitor is in the
// middle of a probe that hangs, or does not dial again yet.
//
// An orderly shutdown ends sessions with FATAL 57P01, and so does a session that waits for its client when the postmaster
// dies. The statement is undone then: PostgreSQL checks for such an order only at points where every commit has been
// answered. A session that waits for synchronous replication is ended by a warning, without an answer (ProcessInterrupts and
// SyncRepWaitForLSN in PostgreSQL's source). There is one exception: the tag was sent before 57P01. See confirmed.
//
// pg_terminate_backend sends the same error, but then somebody wanted this very session to end, and the node stays. So the
// node must be proven to leave: nobody accepts sessions there, or it is stale, or it has another role or another start than
// when the connection was lent. A node that is silent, full, or refuses our login proves nothing, nor does one that does not tell when it started.
func (r *Route) awaitShutdownProof(ctx context.Context, was origin, err error) bool {
	if !r.criteria.repeat || was == nil || !pgerr.IsFatal(err, pgerr.AdminShutdown) {
		return false
	}
	if was.Report.Pooler || was.Report.StartTime.IsZero() || was.Report.SystemID == 0 {
		return false // a pooler may say so in its own name, whatever became of the statement
	}
	checks := was.node.checks
	checks.reconnect.Store(true)
	begun := checks.begun.Load()
	checks.checkNow()
	var now *NodeState
	err = r.cluster.await(ctx, "probe of "+was.Name, func(s *Snapshot) bool {
		now = s.state(was.node)
		return now == nil || now.probe > begun
	})
	if err != nil || now == nil {
		return false
	}
	proven := now.Status == StatusDown && now.noServer || now.Status == StatusStale ||
		now.Status == StatusUp && now.Role != was.Role || restarted(was, now)
	if proven {
		r.cluster.counts.repeated.Add(1)
	}
	return proven
}

// confirmed reports whether a statement has taken effect although it ended with err: the server had sent its tag. In the simple
// protocol the tag of a single statement comes after its commit, and a server that logs the duration of statements may obey an
// order to stop, or to cancel the statement, behind the two. In the extended protocol a tag comes before the commit; pgx drops
// it when the connection ends.
func confirmed(sql string, args []any, simply bool, tag pgconn.CommandTag, err error) bool {
	return tag != (pgconn.CommandTag{}) && (nodepool.IsEnd(err) || simply && cancelled(err)) && !rewritten(args) && isSingle(afterComments(sql))
}

// cancelled reports whether a statement was cancelled, as it can be behind its tag too.
func cancelled(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == pgerr.QueryCanceled
}

// sentSimply reports whether pgx sends a query with these arguments in the simple protocol.
func sentSimply(conn *pgxpool.Conn, args []any) bool {
	for _, arg := range args {
		if mode, ok := arg.(pgx.QueryExecMode); ok {
			return mode == pgx.QueryExecModeSimpleProtocol
		}
	}
	return simple(conn)
}

// repeatable reports whether a statement can be undone as a whole: it is a single one, and of a kind that cannot commit by
// itself in its middle, as CALL, DO and VACUUM can. Every other statement, and every statement that is hard to tell, is not
// repeatable.
func repeatable(sql string, args []any) bool {
	if rewritten(args) {
		return false
	}
	sql = afterComments(sql)
	if !isSingle(sql) {
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

// isSingle reports whether sql is one statement for sure. A semicolon in its middle may be part of a string, or begin
// another statement, so sql counts as several then.
func isSingle(sql string) bool {
	head, rest, more := strings.Cut(sql, ";")
	if sql == "" || more && strings.TrimSpace(rest) != "" &&
		(strings.ContainsAny(head, `'"$`) || strings.Contains(head, "--") || strings.Contains(sql, "/*")) {
		return false // what looks like a comment behind the semicolon may be part of a string, or hold another comment
	}
	return !more || afterComments(rest) == ""
}

// rewritten reports whether an argument may replace the statement: a QueryRewriter other than pgx's named arguments.
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
