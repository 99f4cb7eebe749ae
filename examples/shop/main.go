// Shop is an example of a whole service: an HTTP server that uses a highly available PostgreSQL cluster.
//
//	DATABASE_URL='postgres://app@pg1,pg2,pg3/shop' go run github.com/pghasql/hasql/examples/shop
//
// It migrates its tables on the master, writes to the master, and reads from the replicas. It serves metrics and probes. When
// it is asked to stop, it lets running requests finish.
package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/pghasql/hasql"
)

func main() {
	log := zap.Must(zap.NewProduction())
	defer log.Sync()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	addr := os.Getenv("LISTEN")
	if addr == "" {
		addr = "127.0.0.1:8080"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal("no listener", zap.Error(err))
	}
	if err := run(ctx, os.Getenv("DATABASE_URL"), listener, log); err != nil {
		log.Fatal("shop failed", zap.Error(err))
	}
}

const (
	startLimit = time.Minute      // for the migration of the tables
	grace      = 20 * time.Second // for running requests, after the service was asked to stop
)

// run serves on listener until ctx ends.
func run(ctx context.Context, dsn string, listener net.Listener, log *zap.Logger) (err error) {
	defer listener.Close()
	config, err := hasql.ParseConfig(dsn)
	if err != nil {
		return err
	}
	config.Logger = log
	pool, err := hasql.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutDown(pool.Close)) }()

	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := migrate(starting, pool); err != nil {
		return err
	}

	server := &http.Server{Handler: newHandler(pool, log), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("serving", zap.Stringer("addr", listener.Addr()))
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	err = shutDown(server.Shutdown)
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// shutDown calls end, a graceful shutdown, with a context that ends after grace.
func shutDown(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	return end(ctx)
}
