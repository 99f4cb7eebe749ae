package hasql

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// TestMain gives the examples a real cluster. Where PostgreSQL is not installed they are skipped, unless
// HASQL_REQUIRE_POSTGRES is set.
//
// Nothing is started to list tests, nor to fuzz or to simulate, as each of the workers would start a cluster of its own.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.list").Value.String()+flag.Lookup("test.fuzz").Value.String()+os.Getenv(workEnv)+os.Getenv(seedsEnv)+os.Getenv(seedEnv) != "" {
		os.Exit(m.Run())
	}
	stop, err := startShop()
	switch {
	case err == nil:
	case errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") == "":
		fmt.Println("examples are skipped:", err)
		err = flag.Set("test.skip", "^Example")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// startShop runs a master and two replicas with the tables of a shop, and sets DATABASE_URL to them.
func startShop() (stop func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 2})
	if err != nil {
		return func() {}, err
	}
	conn, err := cluster.Nodes()[0].Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, cluster.Close())
	}
	_, err = conn.Exec(ctx, `
		create table brands (id bigint generated always as identity primary key, name text not null);
		create table products (id bigint generated always as identity primary key, name text not null);
		create table skus (product_id bigint references products, size text, colour text)`)
	err = errors.Join(err, conn.Close(ctx), os.Setenv("DATABASE_URL", cluster.DSN()))
	if err != nil {
		return nil, errors.Join(err, cluster.Close())
	}
	return func() {
		if err := cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}, nil
}
