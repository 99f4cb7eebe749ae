package hasqlhttp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
)

func TestHistoryOfAFailover(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var history History
		nodes, masters := 0, 0
		pm := open(t, c, c.DSN(), func(c *hasql.Config) {
			c.Hooks = history.Hooks(hasql.Hooks{
				NodeChanged:   func(_, _ hasql.NodeState) { nodes++ },
				MasterChanged: func(_, _ hasql.NodeState, _ time.Duration) { masters++ },
			})
		})
		ready(t, pm)
		time.Sleep(time.Second)
		c.Node("pg1").Kill()
		time.Sleep(300 * time.Millisecond)
		promoted := time.Now()
		c.Node("pg2").Promote()
		time.Sleep(time.Second)
		synctest.Wait()

		list := NewStatus(pm, &history).Transitions
		var took *Transition // pg2's promotion
		for i := range list {
			if i > 0 && list[i].At.After(list[i-1].At) {
				t.Errorf("%v stands below %v", list[i], list[i-1])
			}
			if list[i].Node == "pg2:5432" && list[i].Role == "master" {
				took = &list[i]
			}
		}
		switch {
		case took == nil:
			t.Errorf("pg2 did not become the master: %v", list)
		case took.Status != "up" || took.Cause != "" || took.At.Before(promoted):
			t.Errorf("pg2 became the master by %+v", *took)
		case took.NoMasterSeconds == nil || *took.NoMasterSeconds < 0.3:
			t.Errorf("there was no master for %v s", took.NoMasterSeconds)
		}
		if nodes != len(list) || masters != 3 { // found, lost, found
			t.Errorf("the user's hooks were told of %d changes of %d, and of %d of the master", nodes, len(list), masters)
		}
	})
}

func TestHistoryKeepsTheLastFifty(t *testing.T) {
	var history History
	hooks := history.Hooks(hasql.Hooks{})
	began := time.Now()
	for i := range 120 {
		hooks.NodeChanged(hasql.NodeState{}, hasql.NodeState{Name: "pg1", Since: began.Add(time.Duration(i) * time.Second)})
	}
	hooks.MasterChanged(hasql.NodeState{}, hasql.NodeState{Name: "pg1"}, 0) // one of several masters, after another
	list := history.newestFirst()
	if list[0].NoMasterSeconds != nil {
		t.Errorf("%v s without a master, where there was always one", *list[0].NoMasterSeconds)
	}
	if len(list) != historySize || list[0].At.Sub(began) != 119*time.Second || list[49].At.Sub(began) != 70*time.Second {
		t.Errorf("%d transitions from %v to %v", len(list), list[0].At, list[len(list)-1].At)
	}
}
