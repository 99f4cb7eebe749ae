package discovery

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/pgcluster"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

const (
	auroraEndpoint = "shop.cluster-cabc123.eu-central-1.rds.amazonaws.com"
	instances      = ".cabc123.eu-central-1.rds.amazonaws.com"
)

// fake is one instance of AWS that answers the three questions, as AWS documents the answers.
type fake struct {
	cluster *pgfake.Cluster
	rows    map[string][][]any
	conns   []*pgx.Conn // that were made
	hang    bool
	err     error
}

var columns = map[string][]pgfake.Column{
	auroraSQL:       {pgfake.Text("server_id"), pgfake.Bool("coalesce"), pgfake.Float8("coalesce")},
	auroraGlobalSQL: {pgfake.Text("server_id"), pgfake.Text("aws_region")},
	rdsSQL:          {pgfake.Text("endpoint"), pgfake.Int4("port")},
}

func newFake(t *testing.T) *fake {
	f := &fake{cluster: pgfake.New("aws"), rows: make(map[string][][]any)}
	t.Cleanup(f.cluster.Close)
	for sql, c := range columns {
		f.cluster.Handle(sql, func(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
			if f.hang {
				return nil, s.Sleep(time.Hour)
			}
			return &pgfake.Result{Rows: f.rows[sql]}, f.err
		}, c...)
	}
	return f
}

func (f *fake) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(f.cluster.DSN())
	if err != nil {
		return nil, err
	}
	config.DialFunc, config.LookupFunc = f.cluster.Dial, f.cluster.Lookup
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		f.conns = append(f.conns, conn)
	}
	return conn, err
}

func TestAWS(t *testing.T) {
	for _, test := range []struct {
		name, sql, want string
		rows            [][]any
		ask             func(Querier) Discoverer
		problems        []string
	}{
		{
			name: "Aurora", sql: auroraSQL, ask: func(q Querier) Discoverer { return Aurora(q, auroraEndpoint) },
			rows: [][]any{{"pg-c", false, 0.5}, {"pg-a", true, 0.0}, {"pg-b", false, 299.0}, {"pg-a", true, 0.0}},
			want: "pg-a=pg-a" + instances + ":5432 pg-b=pg-b" + instances + ":5432 pg-c=pg-c" + instances + ":5432",
		},
		{
			name: "Aurora: a reader that was deleted", sql: auroraSQL, ask: func(q Querier) Discoverer { return Aurora(q, auroraEndpoint) },
			rows: [][]any{{"pg-b", false, 301.0}, {"pg-a", true, 900.0}}, want: "pg-a=pg-a" + instances + ":5432",
		},
		{
			name: "Aurora: another port and age", sql: auroraSQL, ask: func(q Querier) Discoverer {
				a := Aurora(q, "?"+instances)
				a.Port, a.MaxAge = 5433, time.Hour
				return a
			},
			rows: [][]any{{"pg-b", false, 301.0}}, want: "pg-b=pg-b" + instances + ":5433",
		},
		{
			name: "Aurora: nothing", sql: auroraSQL, ask: func(q Querier) Discoverer { return Aurora(q, auroraEndpoint) },
			problems: []string{ErrNoNodes.Error(), "by Aurora"},
		},
		{
			name: "Aurora: an impossible name", sql: auroraSQL, ask: func(q Querier) Discoverer { return Aurora(q, auroraEndpoint) },
			rows: [][]any{{"evil/x", true, 0.0}}, problems: []string{"neither a name nor an address"},
		},
		{
			name: "Aurora: NULL", sql: auroraSQL, ask: func(q Querier) Discoverer { return Aurora(q, auroraEndpoint) },
			rows: [][]any{{nil, true, 0.0}}, problems: []string{"NULL"},
		},
		{
			name: "Aurora global", sql: auroraGlobalSQL, ask: func(q Querier) Discoverer {
				return AuroraGlobal(q, map[string]string{"eu-central-1": auroraEndpoint, "us-east-1": "?.cdef.us-east-1.rds.amazonaws.com"})
			},
			rows: [][]any{{"b", "us-east-1"}, {"b", "eu-central-1"}, {"a", "us-east-1"}, {"x", "sa-east-1"}},
			want: "a (us-east-1)=a.cdef.us-east-1.rds.amazonaws.com:5432@us-east-1 b (eu-central-1)=b" + instances + ":5432@eu-central-1 " +
				"b (us-east-1)=b.cdef.us-east-1.rds.amazonaws.com:5432@us-east-1",
		},
		{
			name: "Aurora global: other regions", sql: auroraGlobalSQL,
			ask:  func(q Querier) Discoverer { return AuroraGlobal(q, map[string]string{"eu-central-1": auroraEndpoint}) },
			rows: [][]any{{"x", "sa-east-1"}}, problems: []string{ErrNoNodes.Error(), "in the regions of Endpoints, of 1 altogether"},
		},
		{
			name: "RDS", sql: rdsSQL, ask: func(q Querier) Discoverer { return RDSMultiAZ(q) },
			rows: [][]any{{"shop-instance-2" + instances, 5433}, {"shop-instance-1" + instances, 5432}, {"shop-instance-3" + instances, 5432}},
			want: "shop-instance-1=shop-instance-1" + instances + ":5432 shop-instance-2=shop-instance-2" + instances +
				":5433 shop-instance-3=shop-instance-3" + instances + ":5432",
		},
		{
			name: "RDS: nothing", sql: rdsSQL, ask: func(q Querier) Discoverer { return RDSMultiAZ(q) },
			problems: []string{ErrNoNodes.Error(), "by RDS"},
		},
		{
			name: "RDS: an impossible port", sql: rdsSQL, ask: func(q Querier) Discoverer { return RDSMultiAZ(q) },
			rows: [][]any{{"a", 70000}}, problems: []string{"a has the port 70000"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.Bubble(t, func(t *testing.T) {
				f := newFake(t)
				f.rows[test.sql] = test.rows
				list, err := test.ask(ConnectEachTime(f.connect)).Discover(t.Context())
				check(t, list, err, test.want, test.problems...)
				if len(f.conns) != 1 || !f.conns[0].IsClosed() {
					t.Errorf("%d connections were made, or one was left open", len(f.conns))
				}
			})
		})
	}
}

// discoverers asks the three questions over one Querier.
func discoverers(q Querier) map[string]Discoverer {
	return map[string]Discoverer{
		"Aurora":        Aurora(q, auroraEndpoint),
		"Aurora global": AuroraGlobal(q, map[string]string{"eu-central-1": auroraEndpoint}),
		"RDS":           RDSMultiAZ(q),
	}
}

func TestAWSTimeout(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		f := newFake(t)
		f.hang = true
		for _, d := range discoverers(ConnectEachTime(f.connect)) {
			began := time.Now()
			list, err := d.Discover(t.Context())
			check(t, list, err, "", "no answer within 2s")
			if took := time.Since(began); took < DefaultTimeout || took > DefaultTimeout+closeTimeout || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v", took, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began = time.Now()
			if list, err := d.Discover(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > time.Second+closeTimeout {
				t.Errorf("after %v: %v, %v", time.Since(began), list, err)
			}
			cancel()
		}
	})
}

func TestAWSRefusals(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		f := newFake(t)
		f.err = pgfake.Errorf("42883", "function does not exist")
		for name, d := range discoverers(ConnectEachTime(f.connect)) {
			list, err := d.Discover(t.Context())
			check(t, list, err, "", "the server is not one of "+strings.Fields(name)[0], "function does not exist")
		}
		f.err = pgfake.Errorf("42501", "permission denied")
		for _, d := range discoverers(ConnectEachTime(f.connect)) {
			list, err := d.Discover(t.Context())
			check(t, list, err, "", "permission denied")
		}
		f.cluster.Node("aws").Kill()
		for _, d := range discoverers(ConnectEachTime(f.connect)) {
			list, err := d.Discover(t.Context())
			check(t, list, err, "", "aws")
		}
	})
}

func TestAWSConnectionStringIsNotTold(t *testing.T) {
	q := ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, "host=pg1 password=geheim port=x")
	})
	for _, d := range discoverers(q) {
		list, err := d.Discover(t.Context())
		check(t, list, err, "", "the connection string makes no sense")
		if _, carried := errors.AsType[*pgconn.ParseConfigError](err); carried || strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error has the connection string: %v", err)
		}
	}
}

func TestAWSFields(t *testing.T) {
	q := ConnectEachTime(nil)
	type source interface {
		Discoverer
		Validate() error
	}
	for _, d := range []source{
		Aurora(nil, auroraEndpoint), Aurora(q, ""), Aurora(q, "pg1"), AuroraGlobal(q, nil),
		AuroraGlobal(nil, map[string]string{"eu-central-1": auroraEndpoint}), AuroraGlobal(q, map[string]string{"eu-central-1": ""}), RDSMultiAZ(nil),
	} {
		err := d.Validate()
		if list, again := d.Discover(t.Context()); err == nil || again == nil || again.Error() != err.Error() {
			t.Errorf("Validate: %v; Discover: %v, %v", err, list, again)
		}
	}
	if err := errors.Join(Aurora(q, auroraEndpoint).Validate(), RDSMultiAZ(q).Validate(),
		AuroraGlobal(q, map[string]string{"eu-central-1": auroraEndpoint}).Validate()); err != nil {
		t.Error(err)
	}
}

func TestInstancePattern(t *testing.T) {
	for endpoint, want := range map[string]string{
		auroraEndpoint: "?" + instances,
		"shop.cluster-ro-cabc123.eu-central-1.rds.amazonaws.com":    "?" + instances,
		"big.cluster-custom-cabc123.eu-central-1.rds.amazonaws.com": "?" + instances,
		"pg-a.cabc123.eu-central-1.rds.amazonaws.com":               "?" + instances,
		"shop.cluster-cabc123.rds.cn-north-1.amazonaws.com.cn":      "?.cabc123.rds.cn-north-1.amazonaws.com.cn",
		"?.db.example.org":                                             "?.db.example.org",
		"shop-?.example.org":                                           "shop-?.example.org",
		"shop.global-cabc123.global.rds.amazonaws.com":                 "",
		"shop.proxy-cabc123.eu-central-1.rds.amazonaws.com":            "",
		"shop.shardgrp-cabc123.eu-central-1.rds.amazonaws.com":         "",
		"db.example.org":                                               "",
		"?.?.example.org":                                              "",
		"postgres://app@shop.cluster-c.eu-central-1.rds.amazonaws.com": "",
		"?@example.org":                                                "",
		"":                                                             "",
	} {
		got, err := instancePattern(endpoint)
		if err == nil && string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", endpoint, got, err, want)
		}
	}
}

// The fake does not know SQL. PostgreSQL does: here it has functions of the names and columns that AWS documents.
func TestAWSOnPostgreSQL(t *testing.T) {
	c, err := pgcluster.Start(t.Context(), pgcluster.Options{})
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") == "" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	pool, err := pgxpool.New(t.Context(), c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	connecting := ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, c.DSN()) })

	for _, q := range []Querier{pool, connecting} {
		for name, d := range discoverers(q) {
			list, err := d.Discover(t.Context())
			check(t, list, err, "", "the server is not one of "+strings.Fields(name)[0])
		}
	}
	if _, err := pool.Exec(t.Context(), awsFunctions); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Aurora":        "pg-a=pg-a" + instances + ":5432 pg-b=pg-b" + instances + ":5432 pg-d=pg-d" + instances + ":5432",
		"Aurora global": "pg-a (eu-central-1)=pg-a" + instances + ":5432@eu-central-1",
		"RDS":           "shop-instance-1=shop-instance-1" + instances + ":5432 shop-instance-2=shop-instance-2" + instances + ":5432",
	}
	var running sync.WaitGroup
	for _, q := range []Querier{pool, connecting} {
		for name, d := range discoverers(q) {
			for range 4 { // a discoverer serves several at once
				running.Go(func() {
					list, err := d.Discover(t.Context())
					check(t, list, err, want[name])
				})
			}
		}
	}
	running.Wait()
}

// awsFunctions answer a writer whose report is old, readers that report, that never did and that are gone.
const awsFunctions = `
create function aurora_replica_status(out server_id text, out session_id text, out durable_lsn bigint, out highest_lsn_rcvd bigint,
	out current_read_lsn bigint, out cur_replay_latency_in_usec bigint, out active_txns int, out is_current boolean,
	out last_transport_error int, out last_error_timestamp timestamptz, out last_update_timestamp timestamptz, out feedback_xmin xid,
	out feedback_epoch int, out replica_lag_in_msec bigint, out cpu real) returns setof record language sql as $$
	values ('pg-b', '5a0e9b2c', 1::bigint, 1::bigint, 1::bigint, 1::bigint, 0, true, 0, null::timestamptz, now(), '1'::xid, 0, 11::bigint, 1::real),
		('pg-a', 'MASTER_SESSION_ID', 1, null, null, null, 0, true, 0, null, now() - interval '1 hour', null, null, null, 5),
		('pg-c', '6b1f0c3d', 1, 1, 1, 1, 0, true, 0, null, now() - interval '1 hour', '1', 0, 3600000, 0),
		('pg-d', null, 1, 1, 1, 1, 0, true, 0, null, null, '1', 0, null, 0) $$;
create function aurora_global_db_instance_status(out server_id text, out session_id text, out aws_region text, out durable_lsn bigint,
	out visibility_lag_in_msec bigint) returns setof record language sql as $$
	values ('pg-a', 'MASTER_SESSION_ID', 'eu-central-1', 1::bigint, null::bigint), ('pg-x', '7c20', 'us-east-1', 1, 90) $$;
create schema rds_tools;
create function rds_tools.show_topology(driver text default '', out id text, out endpoint text, out port int)
	returns setof record language sql as $$
	values ('db-2', 'shop-instance-2.cabc123.eu-central-1.rds.amazonaws.com', 5432),
		('db-1', 'shop-instance-1.cabc123.eu-central-1.rds.amazonaws.com', 5432) $$`
