package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/workload"
)

// againLater is the time between two attempts to make the tables.
const againLater = time.Second

// watch runs the application on an existing cluster until ctx ends, and reports its outages.
func watch(ctx context.Context, o Options, s *screen, b *board) (err error) {
	config, err := hasql.ParseConfig(o.DSN)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range config.Nodes {
		names = append(names, n.Name)
	}
	b.announce(names)
	s.recorder = newRecorder(names, readers)
	pm, err := newPoolManager(ctx, config, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closePoolManager(ctx, pm)) }()
	version, err := prepareRemote(ctx, pm, s)
	if err != nil {
		return nil // only the end of ctx ends the attempts
	}
	s.line(fmt.Sprintf("PostgreSQL %s: %d writers and %d readers work on %d nodes through hasql until interrupted.",
		version, writers, readers, len(names)))
	app := newApplication(pm, s)
	running, cancel := context.WithCancel(ctx)
	defer app.wait()
	defer cancel()
	app.start(running)
	app.accompany(running, config)
	app.watchers.Go(func() { app.prune(running) })
	b.show(&session{ctx: running, pm: pm, app: app, postgres: version})
	<-ctx.Done()
	b.end(app.summary())
	s.line(app.summary())
	return nil
}

// prepareRemote waits for a master, makes the tables, and returns PostgreSQL's version.
func prepareRemote(ctx context.Context, pm *hasql.PoolManager, s *screen) (version string, err error) {
	s.line("Waiting for the master …")
	for {
		_, err = pm.Master().Exec(ctx, schema)
		if err == nil {
			err = pm.Master().QueryRow(ctx, "select split_part(current_setting('server_version'), ' ', 1)").Scan(&version)
		}
		if err == nil || ctx.Err() != nil {
			return version, err
		}
		s.line("Not yet: " + err.Error())
		if err := workload.Sleep(ctx, againLater); err != nil {
			return "", err
		}
	}
}
