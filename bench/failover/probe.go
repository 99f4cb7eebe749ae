package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
)

// furthest returns the standby that has received the most WAL, the first of several: the one that a failover manager
// promotes, and under synchronous replication the one that has every acknowledged write.
func furthest(ctx context.Context, standbys map[int]*pgx.Conn) (node int, err error) {
	node = nobody
	var most hasql.LSN
	for i, conn := range standbys {
		var text string
		if err := conn.QueryRow(ctx, "select coalesce(pg_last_wal_receive_lsn(), '0/0')::text").Scan(&text); err != nil {
			return nobody, err
		}
		lsn, err := hasql.ParseLSN(text)
		if err != nil {
			return nobody, err
		}
		if node == nobody || lsn > most || lsn == most && i < node {
			node, most = i, lsn
		}
	}
	return node, nil
}

// acceptance is the first sign that a node takes writes.
type acceptance struct {
	at  time.Time
	err error
}

// readOnly is the SQLSTATE of a write to a standby, read_only_sql_transaction.
const readOnly = "25006"

// awaitWrites tries to write over conn every millisecond until that works, and tells when the one that did was sent: so
// no client is made to look faster than it was.
func awaitWrites(ctx context.Context, conn *pgx.Conn) acceptance {
	for {
		sent := time.Now()
		_, err := conn.Exec(ctx, "insert into probe default values")
		if err == nil {
			return acceptance{at: sent}
		}
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != readOnly {
			return acceptance{err: err}
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return acceptance{err: err}
		}
	}
}

// ledger returns the ids of all writes as a node has them.
func ledger(ctx context.Context, conn *pgx.Conn) (map[int64]bool, error) {
	rows, err := conn.Query(ctx, "select id from ledger")
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, err
	}
	present := make(map[int64]bool, len(ids))
	for _, id := range ids {
		present[id] = true
	}
	return present, nil
}

// sleep waits, or fails when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
