package patroni

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// Member is one Patroni and the PostgreSQL that it runs.
type Member struct {
	cluster *Cluster
	name    string
	addr    string // of PostgreSQL
	api     string // of Patroni
	process atomic.Pointer[pgcluster.Process]
}

// configFile is a member's configuration. ttl 5, loop_wait 1 and retry_timeout 2 are close to the shortest values with which
// Patroni 3 works. failsafe_mode keeps the leader while etcd is down. WAL is kept small because pg_rewind copies all of it.
const configFile = `scope: hasql
name: NAME
restapi: {listen: 'API', connect_address: 'API'}
etcd3: {hosts: 'ETCD'}
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 2
    maximum_lag_on_failover: 1048576
    primary_start_timeout: 0
    synchronous_mode: true
    failsafe_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {max_connections: 100, wal_log_hints: 'on', wal_keep_size: 32MB, max_wal_size: 64MB, min_wal_size: 32MB}
  initdb: [encoding: UTF8, {locale: C}, {auth-host: trust}, {auth-local: trust}, no-sync]
  pg_hba: [host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
postgresql:
  listen: 'ADDR'
  connect_address: 'ADDR'
  data_dir: 'DIR/data'
  bin_dir: 'BIN'
  pgpass: 'DIR/pgpass'
  authentication: {superuser: {username: postgres}, replication: {username: replicator}, rewind: {username: postgres}}
  parameters:
    shared_buffers: 16MB
    unix_socket_directories: ''
    dynamic_shared_memory_type: mmap
    logging_collector: 'off'
    fsync: 'off'
    wal_retrieve_retry_interval: 100ms
  pg_ctl_timeout: 20
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
`

func newMember(c *Cluster, name string) (*Member, error) {
	port, err := c.box.Reserve()
	if err != nil {
		return nil, err
	}
	api, err := c.box.Reserve()
	if err != nil {
		return nil, err
	}
	m := &Member{cluster: c, name: name, addr: local(port), api: local(api)}
	config := strings.NewReplacer(
		"NAME", m.name, "API", m.api, "ADDR", m.addr, "ETCD", c.etcd.client,
		"DIR", filepath.Join(c.box.Dir(), name), "BIN", c.programs.postgres,
	).Replace(configFile)
	return m, c.box.Write(filepath.Join(name, "patroni.yml"), config)
}

// start starts Patroni, which starts PostgreSQL.
func (m *Member) start() error {
	p, err := m.cluster.box.Start(m.name, m.cluster.programs.patroni, "patroni.yml")
	if err != nil {
		return err
	}
	m.process.Store(p)
	return nil
}

// running reports whether Patroni runs.
func (m *Member) running() bool {
	p := m.process.Load()
	if p == nil {
		return false
	}
	select {
	case <-p.Exited():
		return false
	default:
		return true
	}
}

// Name returns n1, n2, …
func (m *Member) Name() string { return m.name }

// Addr returns PostgreSQL's address, 127.0.0.1:port.
func (m *Member) Addr() string { return m.addr }

// API returns the URL of the member's REST API.
func (m *Member) API() string { return m.url("") }

// Conn opens a connection straight to this member's PostgreSQL, as superuser. The caller closes it.
func (m *Member) Conn(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(dsn(m.addr))
	if err != nil {
		return nil, fmt.Errorf("patroni: %s: %w", m.name, err)
	}
	config.RuntimeParams["application_name"] = "patroni"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("patroni: %s: connect: %w", m.name, err)
	}
	return conn, nil
}

// Kill ends Patroni and PostgreSQL by SIGKILL, as a power loss does. [Member.Rejoin] undoes it.
func (m *Member) Kill(ctx context.Context) error { return m.cluster.box.Kill(ctx, m.name) }

// KillPostgres ends PostgreSQL by SIGKILL. Patroni notices that by itself.
func (m *Member) KillPostgres(ctx context.Context) error {
	return m.cluster.box.Kill(ctx, filepath.Join(m.name, "data"))
}

// Rejoin starts a killed member again and returns when the cluster is healthy. If only the member's PostgreSQL was killed,
// Patroni starts it by itself, and Rejoin only waits.
func (m *Member) Rejoin(ctx context.Context) error {
	if !m.running() {
		if err := m.start(); err != nil {
			return err
		}
	}
	return m.cluster.Healthy(ctx)
}

// Reinitialize removes the data of a replica and copies it anew from the leader, and returns when the cluster is healthy.
func (m *Member) Reinitialize(ctx context.Context) error {
	before := m.status(ctx).Started
	if err := m.post(ctx, "/reinitialize", struct{}{}); err != nil {
		return err
	}
	err := m.cluster.poll(ctx, m.name+" to start with other data", func() bool {
		now := m.status(ctx)
		return now.State == "running" && now.Started != before
	})
	if err != nil {
		return err
	}
	return m.cluster.Healthy(ctx)
}
