package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
)

const (
	// registers is the number of registers: few enough for writers to conflict, and so many that not all of them wait for one.
	registers = 24

	// schema has no key that would reject a write that arrives twice. A trigger records every change of a register in the
	// history, whichever client made it. An entry is a line that a client inserts into the history itself.
	schema = `
		create table register (id int primary key, version bigint not null default 0, mark bigint not null default 0) with (fillfactor = 50);
		create table history (mark bigint not null, register int not null default 0, version bigint not null default 0);
		create index on history (mark);
		create function remember() returns trigger language plpgsql as
			$$ begin insert into history values (new.mark, new.id, new.version); return null; end $$;
		create trigger remember after insert or update on register for each row when (new.version > 0) execute function remember();
		insert into register select generate_series(1, %d)`

	enterSQL     = `insert into history (mark) values ($1) returning inet_server_port()`
	incrementSQL = `update register set version = version + 1, mark = $2 where id = $1 returning version, inet_server_port()`
	swapSQL      = `update register set version = $3 + 1, mark = $2 where id = $1 and version = $3 returning version, inet_server_port()`
	lookSQL      = `select version, mark, inet_server_port() from register where id = $1`
	walSQL       = `select pg_current_wal_flush_lsn()::text`
)

// way is one of the ways to write.
type way struct {
	name  string
	rows  int // number of its changes
	do    func(*write, context.Context) error
	alone bool  // a single statement on a route, which the library sends again if a server refuses it
	doubt doubt // where a FATAL 57P01 proves nothing
}

// doubt says where a FATAL 57P01 may come after the commit, as it does from servers that log the duration of statements, and
// neither pgx nor the library looks at the command tag that came before it.
type doubt int

const (
	nowhere doubt = iota
	inSimpleProtocol
	everywhere
)

var ways = []way{
	{name: "Exec, simple protocol", rows: 1, do: (*write).enter, alone: true},
	{name: "Exec", rows: 1, do: (*write).increment, alone: true},
	{name: "QueryRow", rows: 1, do: (*write).swap, alone: true},
	{name: "Query", rows: 1, do: (*write).query, alone: true},
	{name: "Begin", rows: 2, do: (*write).begin},
	{name: "SendBatch", rows: 2, do: (*write).batch, doubt: inSimpleProtocol},
	{name: "CopyFrom", rows: 3, do: (*write).copy, doubt: everywhere},
	{name: "Acquire, Exec, simple protocol", rows: 1, do: (*write).enterAcquired, doubt: everywhere},
	{name: "Acquire, QueryRow", rows: 1, do: (*write).incrementAcquired, doubt: inSimpleProtocol},
	{name: "Acquire, Begin", rows: 2, do: (*write).beginAcquired, doubt: everywhere},
}

// write is a write under way.
type write struct {
	*client
	claim
	register int
	sent     bool // the statement that decides was sent: of a transaction, its COMMIT
	port     int  // of the server that did it, 0 if unknown
}

// errBeaten says that a compare-and-set found another version.
var errBeaten = errors.New("another client was faster")

func (c *client) anyRegister() int { return 1 + c.rng.IntN(registers) }

func (c *client) write(ctx context.Context) (node int, err error) {
	way := ways[c.rng.IntN(len(ways))]
	w := &write{client: c, register: c.anyRegister()}
	w.claim = claim{
		mark: c.testbed.lastMark.Add(1), by: fmt.Sprintf("%s, %s", c, way.name), rows: way.rows, alone: way.alone,
		node: nobody, master: nobody, trusted: c.trusted(),
	}
	term := c.testbed.term.Load()
	err = way.do(w, ctx)
	if err == nil && w.port != 0 {
		w.node = c.nodeOn(w.port)
	}
	if term == c.testbed.term.Load() && (!term.lossy || w.trusted == term.node) {
		w.master = term.node
	}
	doubtful := way.doubt == everywhere || way.doubt == inSimpleProtocol && c.simple
	w.outcome, w.err = classify(err, w.sent, doubtful), err
	if errors.Is(err, errBeaten) {
		w.outcome, err = refused, nil
	}
	node = w.node
	c.testbed.recorder.addClaim(&w.claim)
	if w.outcome == acknowledged && w.change.version > 0 && node == term.node {
		c.note(ctx, token{change: w.change, epoch: term.epoch})
	}
	return node, err
}

// note remembers the end of the WAL after a write. If that fails, the write is acknowledged all the same.
func (c *client) note(ctx context.Context, t token) {
	var text string
	if c.pm.Master().QueryRow(ctx, walSQL).Scan(&text) != nil {
		return
	}
	if lsn, err := hasql.ParseLSN(text); err == nil {
		t.lsn = lsn
		c.latest.Store(&t)
	}
}

// made records the version that the server returned for the write.
func (w *write) made(version int64) { w.change = change{w.register, version, w.mark} }

// literal is a statement without arguments, for which pgx uses the simple protocol.
func (w *write) literal() string {
	return fmt.Sprintf("insert into history (mark) values (%d)", w.mark)
}

func (w *write) enter(ctx context.Context) error {
	w.sent = true
	_, err := w.pm.Master().Exec(ctx, w.literal())
	return err
}

func (w *write) increment(ctx context.Context) error {
	w.sent = true
	_, err := w.pm.Master().Exec(ctx, incrementSQL, w.register, w.mark)
	return err
}

// swap is a compare-and-set: it reads a version and writes the next one.
func (w *write) swap(ctx context.Context) error {
	var version, mark int64
	if err := w.pm.Master().QueryRow(ctx, lookSQL, w.register).Scan(&version, &mark, nil); err != nil {
		return err
	}
	w.sent = true
	err := w.pm.Master().QueryRow(ctx, swapSQL, w.register, w.mark, version).Scan(&version, &w.port)
	if errors.Is(err, pgx.ErrNoRows) {
		return errBeaten
	}
	if err == nil {
		w.made(version)
	}
	return err
}

func (w *write) query(ctx context.Context) error {
	w.sent = true
	rows, err := w.pm.Master().Query(ctx, enterSQL, w.mark)
	if err != nil {
		return err
	}
	w.port, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	return err
}

func (w *write) begin(ctx context.Context) error {
	tx, err := w.pm.Master().Begin(ctx)
	if err != nil {
		return err
	}
	return w.transact(ctx, tx)
}

// transact reads a register, writes its next version, and inserts an entry.
func (w *write) transact(ctx context.Context, tx pgx.Tx) error {
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // has no effect after a commit
	var version, mark int64
	if err := tx.QueryRow(ctx, lookSQL+" for update", w.register).Scan(&version, &mark, nil); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, swapSQL, w.register, w.mark, version).Scan(&version, &w.port); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, w.literal()); err != nil {
		return err
	}
	w.sent = true
	err := tx.Commit(ctx)
	if err == nil {
		w.made(version)
	}
	return err
}

func (w *write) batch(ctx context.Context) (err error) {
	b := &pgx.Batch{}
	b.Queue(incrementSQL, w.register, w.mark)
	b.Queue(enterSQL, w.mark)
	w.sent = true
	results := w.pm.Master().SendBatch(ctx, b)
	var version int64
	err = results.QueryRow().Scan(&version, &w.port)
	if closed := results.Close(); err == nil {
		err = closed
	}
	if err == nil {
		w.made(version)
	}
	return err
}

func (w *write) copy(ctx context.Context) error {
	w.sent = true
	_, err := w.pm.Master().CopyFrom(ctx, pgx.Identifier{"history"}, []string{"mark"},
		pgx.CopyFromRows([][]any{{w.mark}, {w.mark}, {w.mark}}))
	return err
}

func (w *write) enterAcquired(ctx context.Context) error {
	conn, node, err := w.acquire(ctx, w.pm.Master())
	if err != nil {
		return err
	}
	defer conn.Release()
	w.sent, w.node = true, node
	_, err = conn.Exec(ctx, w.literal())
	return err
}

func (w *write) incrementAcquired(ctx context.Context) error {
	conn, node, err := w.acquire(ctx, w.pm.Master())
	if err != nil {
		return err
	}
	defer conn.Release()
	w.sent, w.node = true, node
	var version int64
	err = conn.QueryRow(ctx, incrementSQL, w.register, w.mark).Scan(&version, &w.port)
	if err == nil {
		w.checkPort(node, w.port)
		w.made(version)
	}
	return err
}

func (w *write) beginAcquired(ctx context.Context) error {
	conn, node, err := w.acquire(ctx, w.pm.Master())
	if err != nil {
		return err
	}
	defer conn.Release()
	w.node = node
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	return w.transact(ctx, tx)
}
