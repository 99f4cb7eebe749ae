package hasql

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql/internal/pgfake"
)

// numbered answers a query with rows of the numbers from 1.
func numbered(c *pgfake.Cluster, sql string, rows int, err error) {
	c.Handle(sql, func(*pgfake.Session, []string) (*pgfake.Result, error) {
		result := new(pgfake.Result)
		for i := range rows {
			result.Rows = append(result.Rows, []any{i + 1})
		}
		return result, err
	}, pgfake.Int8("n"))
}

func TestRowsYieldsEachRowAndTheErrorLast(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		numbered(c, "five", 5, nil)
		numbered(c, "broken", 0, pgfake.Errorf("22012", "division by zero"))
		pm := open(t, c)
		ready(t, pm)
		unfit := errors.New("unfit")
		for _, test := range []struct {
			name string
			sql  string
			to   pgx.RowToFunc[int64]
			stop int64 // the row at which the loop ends
			want []int64
			fail bool
		}{
			{"all", "five", pgx.RowTo[int64], 0, []int64{1, 2, 3, 4, 5}, false},
			{"break", "five", pgx.RowTo[int64], 2, []int64{1, 2}, false},
			{"an error of the server", "broken", pgx.RowTo[int64], 0, []int64{0}, true},
			{"an error of a row", "five", func(row pgx.CollectableRow) (int64, error) {
				if n, err := pgx.RowTo[int64](row); n < 3 {
					return n, err
				}
				return 7, unfit
			}, 0, []int64{1, 2, 0}, true},
		} {
			seq := Rows(t.Context(), pm.Replica(), test.to, test.sql)
			for range 2 { // each loop asks anew
				var got []int64
				var last error
				for n, err := range seq {
					if last != nil {
						t.Errorf("%s: something came after %v", test.name, last)
					}
					got, last = append(got, n), err
					if n == test.stop {
						break
					}
				}
				if !slices.Equal(got, test.want) || (last != nil) != test.fail {
					t.Errorf("%s: %v, %v", test.name, got, last)
				}
			}
		}
		for n := range pm.Snapshot().Nodes() {
			if n.InUse() != 0 {
				t.Errorf("%d connections are not released", n.InUse())
			}
		}
		c.Node("pg2").Kill()
		c.Node("pg3").Kill()
		synctest.Wait()
		for _, err := range Rows(t.Context(), pm.Replica(WithAcquireTimeout(time.Second)), pgx.RowTo[int64], "five") {
			if none, ok := errors.AsType[*NoNodeError](err); !ok || none.Waited != time.Second {
				t.Errorf("no replica: %v", err)
			}
		}
	})
}

func TestRouteHasAnAcquireTimeoutOfItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg1").Kill()
		pm := open(t, c)
		for limit, want := range map[time.Duration]time.Duration{time.Second: time.Second, 45 * time.Second: 45 * time.Second} {
			began := time.Now()
			if _, err := pm.Master(WithAcquireTimeout(limit)).Begin(t.Context()); err == nil {
				t.Error("there is no master")
			}
			if took := time.Since(began); took != want {
				t.Errorf("a limit of %v: %v", limit, took)
			}
		}
		at(2*time.Minute, c.Node("pg1").Start)
		if err := pm.Master(WithAcquireTimeout(-1)).Ping(t.Context()); err != nil { // waits without a limit
			t.Error(err)
		}
	})
}
