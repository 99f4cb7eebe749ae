package bench

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
)

// BenchmarkInTx is a transaction of three statements: by pgx.BeginTxFunc on a bare pool, and by InTx in each of its ways.
func BenchmarkInTx(b *testing.B) {
	c := cluster(b)
	pool, pm := bare(b, c), manager(b, c, 2, "least_loaded")
	ctx := context.Background()
	for _, sql := range []string{
		"create table accounts (id int primary key, balance int) with (fillfactor = 50)",
		"insert into accounts select i, 0 from generate_series(1, 100) i",
		hasql.CommitMarkerSQL("hasql_commit"),
	} {
		if _, err := pm.Master().Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	work := func(ctx context.Context, tx pgx.Tx) error {
		for id := range 3 {
			if _, err := tx.Exec(ctx, "update accounts set balance = balance + 1 where id = $1", id); err != nil {
				return err
			}
		}
		return nil
	}
	theirs := func() {
		if err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{}, func(tx pgx.Tx) error { return work(ctx, tx) }); err != nil {
			b.Fatal(err)
		}
	}
	for name, options := range map[string]hasql.TxOptions{
		"traced":      {},
		"traced late": {MayOnlyRead: true},
		"marked":      {Marker: "hasql_commit"},
		"not traced":  {NoTrace: true},
	} {
		b.Run(name, func(b *testing.B) {
			compareTransactions(b, theirs, func() {
				if err := pm.InTx(ctx, options, work); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// compareTransactions is compare with blocks of a few, as a transaction takes a thousand times as long as an acquire.
func compareTransactions(b *testing.B, pgx, hasql func()) {
	const few = 32
	var theirs, ours series
	take := func(s *series, f func()) {
		start := time.Now()
		for range few {
			f()
		}
		s.times = append(s.times, float64(time.Since(start).Microseconds())/few)
	}
	for b.Loop() {
		take(&theirs, pgx)
		take(&ours, hasql)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(theirs.median(), "pgx-µs")
	b.ReportMetric(ours.median(), "hasql-µs")
	b.ReportMetric(ours.median()/theirs.median(), "ratio")
}
