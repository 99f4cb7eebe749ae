package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
)

const (
	// registers are few enough for writers to meet, and so many that not all of them wait for one.
	registers = 24

	// schema has no key that would turn a write down which comes twice. Whatever changes a register is in the history, be
	// it asked for by whomever; entries are lines of the history alone.
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
	rows  int // it makes so many changes
	do    func(*write, context.Context) error
	alone bool  // a single statement on a route, which runs again where a server sends it back
	doubt doubt // about a FATAL 57P01
}

// doubt says where a FATAL 57P01 may come behind the commit, as it does from servers that log how long statements took, and
// neither pgx nor the library looks at the tag that came before.
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
	sent     bool // what decides is: of a transaction that is COMMIT
	port     int  // of the server that did it, 0 if it does not say
}

// errBeaten says that a compare-and-set found another version.
var errBeaten = errors.New("somebody else was faster")

func (c *client) anyRegister() int { return 1 + c.dice.IntN(registers) }

func (c *client) write(ctx context.Context) (node int, err error) {
	way := ways[c.dice.IntN(len(ways))]
	w := &write{client: c, register: c.anyRegister()}
	w.claim = claim{
		mark: c.game.lastMark.Add(1), by: fmt.Sprintf("%s, %s", c, way.name), rows: way.rows, alone: way.alone,
		node: nobody, master: nobody, trusted: c.trusted(),
	}
	reign := c.game.master.Load()
	err = way.do(w, ctx)
	if err == nil && w.port != 0 {
		w.node = c.nodeOn(w.port)
	}
	if reign == c.game.master.Load() && (!reign.lossy || w.trusted == reign.node) {
		w.master = reign.node
	}
	doubtful := way.doubt == everywhere || way.doubt == inSimpleProtocol && c.simple
	w.outcome, w.err = classify(err, w.sent, doubtful), err
	if errors.Is(err, errBeaten) {
		w.outcome, err = refused, nil
	}
	node = w.node
	c.game.book.claim(&w.claim)
	if w.outcome == acknowledged && w.change.version > 0 && node == reign.node {
		c.note(ctx, token{change: w.change, epoch: reign.epoch})
	}
	return node, err
}

// note remembers where the WAL ends after a write. If that fails, the write is none the less acknowledged.
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

// made notes the version that a write was told to have made.
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

// swap is a compare-and-set on what was read before.
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

// transact reads a register and writes what follows, and an entry.
func (w *write) transact(ctx context.Context, tx pgx.Tx) error {
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // for what is left of it
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
