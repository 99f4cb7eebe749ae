package demo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/workload"
)

const (
	replicas = 2

	startLimit = 30 * time.Second // time limit for starting PostgreSQL
	runLimit   = 50 * time.Second // time limit for one fault and its repair
)

// play starts a cluster and runs the demo on it.
func play(ctx context.Context, o Options, s *screen, b *board) (result *Result, err error) {
	if !o.Hold {
		limit := startLimit + time.Duration(o.Runs*len(o.Faults))*runLimit
		limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within %v", limit))
		defer cancel()
		ctx = limited
	}
	defer func() { err = orCause(ctx, err) }()

	names := []string{"pg1"}
	for i := range replicas {
		names = append(names, fmt.Sprintf("pg%d", i+2))
	}
	b.announce(names)
	s.line("Starting PostgreSQL: one master, two replicas …")
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: replicas})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	s.recorder = newRecorder(names, readers)
	manager := newFailoverManager(cluster, names, s, s.recorder)
	defer manager.begun.Wait()
	if err := manager.prepare(ctx); err != nil {
		return nil, err
	}
	config, err := hasql.ParseConfig(fmt.Sprintf("%s&pool_max_conns=%d", cluster.DSN(), writers+1)) // one more connection for the audit
	if err != nil {
		return nil, err
	}
	for i := range config.Nodes {
		config.Nodes[i].Name = names[i]
	}
	pm, err := newPoolManager(ctx, config, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closePoolManager(ctx, pm)) }()
	if err := pm.Ready(ctx, 1, replicas); err != nil {
		return nil, err
	}

	s.line(fmt.Sprintf("PostgreSQL %s on this machine: %s. %d writers and %d readers use it through hasql at its defaults.",
		cluster.Version(), strings.Join(names, ", "), writers, readers))
	s.line("Replication is synchronous: a write is acknowledged once a replica has it too, so no write may be lost.")
	app := newApplication(pm, s)
	// The clients always end before the cluster is closed.
	running, cancel := context.WithCancel(ctx)
	defer app.wait()
	defer cancel()
	app.start(running)
	app.accompany(running, config)
	shown := &session{ctx: running, pm: pm, app: app, postgres: cluster.Version()}
	if o.Hold {
		shown.manager = manager
	}
	b.show(shown)
	if o.Hold {
		<-ctx.Done()
		b.end(app.summary())
		s.line(app.summary())
		return nil, nil
	}

	s.line("")
	s.line(s.dim(header(names)))
	app.clients.Go(func() { app.report(running) })
	played, err := (&script{manager, app}).play(running, o)
	if err != nil {
		return nil, err
	}
	record, err := app.conclude(running)
	if err != nil {
		return nil, err
	}
	record.version, record.played = cluster.Version(), played
	result = newResult(record)
	s.line("")
	if err := result.render(o.Out, s.style); err != nil {
		return nil, err
	}
	verdict := "Every promise was kept."
	if !result.Kept {
		verdict = "Broken promises: " + strings.Join(result.Broken(), "; ")
	} else {
		s.line("\n" + s.good(verdict))
	}
	b.end(verdict)
	return result, nil
}

// prepare makes the tables and makes commits synchronous.
func (m *failoverManager) prepare(ctx context.Context) error {
	master, _ := m.present()
	conn, err := m.nodes[master].Conn(ctx)
	if err != nil {
		return err
	}
	defer workload.CloseNow(conn)
	if _, err := conn.Exec(ctx, schema); err != nil {
		return err
	}
	return m.awaitReplicas(ctx)
}
