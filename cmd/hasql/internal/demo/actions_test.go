package demo

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func idleManager() *failoverManager {
	names := []string{"pg1", "pg2", "pg3"}
	return &failoverManager{
		nodes: make([]*pgcluster.Node, 3), names: names, screen: &screen{out: io.Discard}, recorder: newRecorder(names, 1),
		health: make([]health, 3), superseded: make([]bool, 3),
	}
}

func TestOnlyWhatMakesSenseIsOnOffer(t *testing.T) {
	t.Parallel()
	hurt := []string{actionCrash, actionFreeze}
	tests := map[string]struct {
		change  func(*failoverManager)
		cluster []string
		nodes   [][]string
	}{
		"all is well": {func(*failoverManager) {}, []string{actionSwitchover}, [][]string{hurt, hurt, hurt}},
		"something is under way": {
			func(m *failoverManager) { m.busy = actionCrash }, nil, [][]string{nil, nil, nil},
		},
		"an old master is down": {
			func(m *failoverManager) { m.master, m.health[0], m.superseded[0] = 1, crashed, true },
			[]string{actionSwitchover},
			[][]string{{actionRepair}, hurt, hurt},
		},
		"an old master is frozen": {
			func(m *failoverManager) { m.master, m.health[0], m.superseded[0] = 1, frozen, true },
			nil,
			[][]string{{actionThaw, actionRepair}, hurt, hurt},
		},
		"an old master is thawed": {
			func(m *failoverManager) { m.master, m.superseded[0] = 1, true },
			[]string{actionSwitchover},
			[][]string{{actionCrash, actionFreeze, actionRepair}, hurt, hurt},
		},
		"no replica is left": {
			func(m *failoverManager) { m.health[1], m.health[2] = crashed, crashed },
			nil,
			[][]string{hurt, {actionRepair}, {actionRepair}},
		},
		"nobody could take over": {
			func(m *failoverManager) { m.health = []health{crashed, crashed, frozen} },
			nil,
			[][]string{{actionRepair}, nil, {actionThaw}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := idleManager()
			test.change(m)
			_, cluster, nodes := m.offers()
			if !slices.Equal(cluster, test.cluster) || !slices.EqualFunc(nodes, test.nodes, slices.Equal) {
				t.Errorf("got %v %v, want %v %v", cluster, nodes, test.cluster, test.nodes)
			}
		})
	}
}

func TestWhatIsNotOnOfferIsRefused(t *testing.T) {
	t.Parallel()
	m := idleManager()
	for _, ask := range [][2]string{{actionRepair, "pg1"}, {actionCrash, "pg9"}, {actionCrash, ""}, {"dance", "pg1"}, {actionSwitchover, "pg1"}} {
		err := m.begin(t.Context(), ask[0], ask[1], func(error) { t.Errorf("%v began", ask) })
		if !errors.Is(err, dashboard.ErrRefused) {
			t.Errorf("%v: %v", ask, err)
		}
	}
	m.begun.Wait()
}
