package hasql

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

// bubble runs a test against a cluster of three nodes in memory, in virtual time: pg1 is the master.
func bubble(t *testing.T, test func(t *testing.T, c *pgfake.Cluster)) {
	t.Helper()
	bubbleOf(t, []string{"pg1", "pg2", "pg3"}, test)
}

// bubbleOf is bubble with other nodes, of which the first is the master.
func bubbleOf(t *testing.T, names []string, test func(t *testing.T, c *pgfake.Cluster)) {
	t.Helper()
	testenv.Isolate(t)
	testenv.Bubble(t, func(t *testing.T) {
		c := pgfake.New(names...)
		t.Cleanup(c.Close)
		handleProbe(c, answerProbe)
		test(t, c)
	})
}

// probeColumns are those of fullProbe, of which stateProbe has the first stateColumns.
var probeColumns = []pgfake.Column{
	pgfake.Text("transaction_read_only"), pgfake.Bool("recovery"), pgfake.Int8("timeline"), pgfake.Int8("lsn"),
	pgfake.Int8("delay"), pgfake.Int8("recovery_end"), pgfake.Int8("recovery_timeline"),
	pgfake.Int8("system_identifier"), pgfake.Int8("start"), pgfake.Int8("pid"),
}

const stateColumns = 7

// handleProbe makes every node answer probes by h, which returns the columns of fullProbe.
func handleProbe(c *pgfake.Cluster, h pgfake.Handler) {
	c.Handle(fullProbe, h, probeColumns...)
	c.Handle(stateProbe, func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
		result, err := h(s, args)
		if err != nil {
			return nil, err
		}
		return pgfake.Row(result.Rows[0][:stateColumns]...), nil
	}, probeColumns[:stateColumns]...)
}

// answerProbe is what PostgreSQL says to an ordinary role.
func answerProbe(s *pgfake.Session, _ []string) (*pgfake.Result, error) {
	n := s.Node().State()
	readOnly := "off"
	if s.ReadOnly() {
		readOnly = "on"
	}
	var timeline, delay, recovered, line any
	if n.InRecovery {
		delay, line = time.Since(n.ReplayedAt).Microseconds(), n.Timeline
	} else {
		timeline = n.Timeline
	}
	return pgfake.Row(readOnly, n.InRecovery, timeline, n.LSN, delay, recovered, line, n.SystemID, n.StartTime.UnixMicro(), s.PID()), nil
}

// asked is how often a node was probed.
func asked(n *pgfake.Node) int { return n.QueryCount(fullProbe) + n.QueryCount(stateProbe) }

// open makes a PoolManager for the cluster, which the end of the test closes.
func open(t *testing.T, c *pgfake.Cluster, edit ...func(*Config)) *PoolManager {
	t.Helper()
	config, err := ParseConfig(c.DSN() + "&pool_max_conns=4")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range config.Nodes {
		n.Pool.ConnConfig.DialFunc = c.Dial
		n.Pool.ConnConfig.LookupFunc = c.Lookup
	}
	for _, e := range edit {
		e(config)
	}
	pm, err := NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := pm.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return pm
}

// ready waits for all three nodes, and until the end of a connection is noticed at once: one that has just begun may be
// one of a node that ends them all.
func ready(t *testing.T, pm *PoolManager) {
	t.Helper()
	if err := pm.Ready(t.Context(), 1, 2); err != nil {
		t.Fatal(err)
	}
	time.Sleep(DefaultRecoveryInterval)
}

// nodeOf returns the name of the node that conn leads to.
func nodeOf(t *testing.T, conn *pgxpool.Conn) (name string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "read").Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}

func acquire(t *testing.T, get func(context.Context) (*pgxpool.Conn, error)) *pgxpool.Conn {
	t.Helper()
	conn, err := get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// at runs f after d of virtual time.
func at(d time.Duration, f func()) {
	time.AfterFunc(d, f)
}

// status returns the status of a node in the present snapshot.
func status(pm *PoolManager, name string) Status {
	for n := range pm.Snapshot().Nodes() {
		if n.Name == name+":5432" {
			return n.Status
		}
	}
	panic("no such node: " + name)
}

func nodesOf(pm *PoolManager) []*node { return slices.Collect(pm.Snapshot().members()) }

func poolsOf(pm *PoolManager) (pools []*nodepool.Pool) {
	for _, n := range nodesOf(pm) {
		pools = append(pools, n.pool)
	}
	return pools
}
