package hasql

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

// What a Route returns where there is no connection is in an error state in every respect, as pgx's own is.
func TestResultsWithoutAConnectionFailInEveryRespect(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		if err := pm.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, r := t.Context(), pm.Master()
		var n int
		rows, err := r.Query(ctx, "select 1")
		if !errors.Is(err, ErrClosed) || !errors.Is(rows.Err(), ErrClosed) || !errors.Is(rows.Scan(&n), ErrClosed) || rows.Next() {
			t.Errorf("Query: %v, %v", err, rows.Err())
		}
		if values, err := rows.Values(); values != nil || !errors.Is(err, ErrClosed) {
			t.Errorf("Values: %v, %v", values, err)
		}
		if rows.CommandTag().String() != "" || rows.FieldDescriptions() != nil || rows.RawValues() != nil || rows.Conn() != nil || rows.TypeMap() != nil {
			t.Error("there is a result all the same")
		}
		rows.Close()
		_, exec := r.Exec(ctx, "select 1")
		_, begin := r.Begin(ctx)
		_, copied := r.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"a"}, pgx.CopyFromRows(nil))
		batch := &pgx.Batch{}
		batch.Queue("select 1")
		results := r.SendBatch(ctx, batch)
		for what, err := range map[string]error{
			"Exec": exec, "Begin": begin, "CopyFrom": copied, "Ping": r.Ping(ctx),
			"QueryRow": r.QueryRow(ctx, "select 1").Scan(&n), "SendBatch": results.Close(), "AcquireFunc": r.AcquireFunc(ctx, nil),
		} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// A statement that shall run again may find no node to do so; then that is its error.
func TestStatementThatFindsNoNextServerSaysSo(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				c.Handle(slow, slowly, pgfake.Text("slow"))
				pm := open(t, c)
				ready(t, pm)
				at(500*time.Millisecond, c.Node("pg1").Stop)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if err := way(ctx, pm.Master(), slow); !pgerr.Is[*NoNodeError](err) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

func TestRowIsScannedOnce(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		var number int
		var name string
		row := pm.Master().QueryRow(t.Context(), "read")
		if err := row.Scan(&number); err == nil {
			t.Error("the name of a node is a number")
		}
		if err := row.Scan(&name); err == nil {
			t.Error("there is a second row")
		}
		row = pm.Master().QueryRow(t.Context(), "read")
		if err := row.Scan(&name); err != nil || name != "pg1" {
			t.Errorf("%q, %v", name, err)
		}
		if err := row.Scan(&name); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("a second row: %v", err)
		}
		if err := pm.Master().QueryRow(t.Context(), "read").Scan(new(pgtype.DriverBytes)); err == nil {
			t.Error("bytes of the driver outlive the row")
		}
		if lent := pm.Stat().Nodes()[0].Pool.AcquiredConns(); lent != 0 {
			t.Errorf("%d connections are lent", lent)
		}
	})
}

func TestRowsThatAreMisreadGiveTheirConnectionBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		rows, err := pm.Master().Query(t.Context(), "read")
		if err != nil || !rows.Next() {
			t.Fatal(err, rows.Err())
		}
		var number int
		if err := rows.Scan(&number); err == nil {
			t.Error("the name of a node is a number")
		}
		if lent := pm.Stat().Nodes()[0].Pool.AcquiredConns(); lent != 0 {
			t.Errorf("%d connections are lent", lent)
		}
	})
}

func TestSnapshotListsNodesByRole(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c)
		ready(t, pm)
		s := pm.Snapshot()
		list := func(nodes func(func(NodeState) bool)) (names []string) {
			for n := range nodes {
				names = append(names, n.Name)
			}
			return names
		}
		if got := list(s.Masters()); !slices.Equal(got, []string{"pg1:5432"}) {
			t.Errorf("masters %v", got)
		}
		if got := list(s.Replicas()); !slices.Equal(got, []string{"pg2:5432", "pg3:5432"}) {
			t.Errorf("replicas %v", got)
		}
		for n := range s.Replicas() {
			if n.Name != "pg2:5432" {
				t.Errorf("first %s", n.Name)
			}
			break
		}
		if n, ok := s.Node("pg3:5432"); !ok || n.Role != RoleReplica || s.Len() != 3 || s.Closed() {
			t.Errorf("pg3 is %v, of %d nodes", n.Role, s.Len())
		}
		if n, ok := s.Node("pg4"); ok || n.Name != "" {
			t.Errorf("a node that does not exist: %q", n.Name)
		}
		if age := time.Since(s.Time()); age < 0 || age > 2*DefaultCheckInterval {
			t.Errorf("evidence of %v ago", age)
		}
		if n := (&NodeState{}); n.InUse() != 0 || n.Free() != 0 {
			t.Error("a node without a pool has connections")
		}
	})
}

func TestPickerThatPicksNothingGetsTheFirst(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.Picker = PickerFunc(func([]Candidate) int { return -1 }) })
		ready(t, pm)
		conn := acquire(t, pm.AcquireReplica)
		defer conn.Release()
		if got := nodeOf(t, conn); got != "pg2" {
			t.Errorf("%s", got)
		}
	})
}
