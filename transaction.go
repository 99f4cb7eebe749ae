package hasql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

// TxOptions say how [Route.InTx] runs a transaction. The zero value is a good choice.
type TxOptions struct {
	pgx.TxOptions

	// MaxAttempts is how often the function may be called. The default, 0, is 10; a negative number is no limit but the end of
	// the context.
	MaxAttempts int

	// Marker is the name of a table as [CommitMarkerSQL] makes it, which the role may read and write; with its schema, if
	// search_path is not the same in all sessions and transactions. Each transaction then leaves
	// a mark there, so that its outcome can be told exactly after any failover, also behind a pooler and on products that lack
	// the functions of PostgreSQL that tell it otherwise. It costs one more update of one row. The default is none.
	Marker string

	// Verify is asked whether a transaction was applied where nothing else can tell, over a connection to the master of now. It is
	// called only once the transaction can't be applied any more if it was not before: so it is not asked where not even the id of
	// the transaction is known (NoTrace), nor about another master of several. It must not keep the connection.
	Verify func(ctx context.Context, conn *pgxpool.Conn) (applied bool, err error)

	// MayOnlyRead is for a transaction that often writes nothing, though AccessMode does not say so: it then costs no transaction
	// id and no flush. Its outcome is more often unknown, as what tells it is sent with COMMIT.
	MayOnlyRead bool

	// NoTrace sends nothing that tells the outcome. A COMMIT that is not answered is unknown then. [Config.TraceCommits] says so
	// for all transactions.
	NoTrace bool
}

// readOnly reports whether the transaction can't write. A BeginQuery overrides what AccessMode says.
func (o *TxOptions) readOnly() bool { return o.AccessMode == pgx.ReadOnly && o.BeginQuery == "" }

// way is how a transaction learns what tells its outcome.
type way uint8

const (
	untraced   way = iota // not at all
	traced                // by a message in the WAL, sent with BEGIN
	tracedLate            // by its position in the WAL, asked for with COMMIT
	marked                // by a mark, made with BEGIN
	markedLate            // by a mark, made with COMMIT
)

// transaction is one attempt of InTx.
type transaction struct {
	route   *Route
	commits *commits
	options *TxOptions
	way     way
	conn    *pgxpool.Conn // nil once it is released
	inner   pgx.Tx
	failed  bool       // whether the server has refused a statement of it, or the connection has ended
	strayed bool       // whether the function has ended it
	settled bool       // whether its session has ended for sure
	asked   bool       // whether what tells the outcome was sent with COMMIT
	told    bool       // whether that was answered
	pooled  bool       // whether there is a pooler before the server, or that is unknown
	lost    lostCommit // what is known for the case that the answer to COMMIT does not come
}

// rollBack ends the transaction, also if ctx has ended: the connection is still good.
func (t *transaction) rollBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.commits.config.CheckTimeout)
	defer cancel()
	_ = t.inner.Rollback(ctx) // what fails closes the connection
}

// over reports whether the connection is outside of a transaction again, and good.
func (t *transaction) over() bool {
	pg := t.conn.Conn().PgConn()
	return !pg.IsClosed() && pg.TxStatus() == 'I'
}

// ended reports whether the connection has ended, and not because the caller's context did.
func (t *transaction) ended(err error) bool {
	if !t.conn.Conn().PgConn().IsClosed() {
		return false
	}
	return nodepool.IsEnd(err) || nodepool.HasEnded(t.conn.Conn())
}

// beginWith begins the transaction, and asks something in the same message. If that fails there is no transaction.
func (t *transaction) beginWith(ctx context.Context, ask func(*pgx.Batch)) error {
	b := new(pgx.Batch)
	b.BeginTx(t.options.TxOptions)
	ask(b)
	results := t.conn.SendBatch(ctx, b)
	err := results.Close()
	t.inner = results.Tx()
	if err != nil && t.conn.Conn().PgConn().TxStatus() != 'I' && !t.conn.Conn().PgConn().IsClosed() {
		t.rollBack(ctx)
	}
	return err
}

// pipeline sends a statement of one row and COMMIT in one message. The row is told before COMMIT is answered.
func (t *transaction) pipeline(ctx context.Context, sql string, args [][]byte, told func([][]byte) error) (err error) {
	p := t.conn.Conn().PgConn().StartPipeline(ctx)
	committed := false
	defer func() {
		if closed := p.Close(); err == nil && !committed {
			err = closed
		}
		switch pg := t.conn.Conn().PgConn(); {
		case err == nil || pg.IsClosed() || pg.TxStatus() == 'I':
		case pg.TxStatus() == 'E': // the server has skipped COMMIT
			err = &unsentError{err}
		default:
			_ = t.conn.Conn().Close(ctx) // as pgx does after a COMMIT that failed
		}
	}()
	t.asked = true
	p.SendQueryParams(sql, args, nil, nil, nil)
	p.SendFlushRequest()
	p.SendQueryParams("commit", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return err
	}
	result, err := nextResult(p)
	if err != nil {
		return err
	}
	t.told = true
	if len(result.Rows) == 1 {
		if err := told(result.Rows[0]); err != nil {
			return err
		}
	}
	if result, err = nextResult(p); err != nil {
		return err
	}
	if result.CommandTag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	committed = true // whatever comes behind
	return nil
}

// nextResult reads the next result of a pipeline.
func nextResult(p *pgconn.Pipeline) (*pgconn.Result, error) {
	results, err := p.GetResults()
	if err != nil {
		return nil, err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("hasql: unexpected %T in a pipeline", results)
	}
	result := reader.Read()
	return result, result.Err
}

// scanText reads numbers in text form.
func scanText(values [][]byte, dest []any) error {
	if len(values) != len(dest) {
		return fmt.Errorf("hasql: %d columns where %d were expected", len(values), len(dest))
	}
	for i, v := range values {
		if _, err := fmt.Sscan(string(v), dest[i]); err != nil {
			return err
		}
	}
	return nil
}

// simple reports whether the connection is to use the simple protocol, for the sake of a pooler perhaps.
func simple(conn *pgxpool.Conn) bool {
	return conn.Conn().Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol
}

// unsentError is the end of what came before COMMIT, which was not sent then, or skipped.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }
