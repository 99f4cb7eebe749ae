package demo

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func idleKeeper() *keeper {
	names := []string{"pg1", "pg2", "pg3"}
	return &keeper{
		nodes: make([]*pgcluster.Node, 3), names: names, screen: &screen{out: io.Discard}, book: newBook(names, 1),
		health: make([]health, 3), superseded: make([]bool, 3),
	}
}

func TestOnlyWhatMakesSenseIsOnOffer(t *testing.T) {
	t.Parallel()
	hurt := []string{actionCrash, actionFreeze}
	tests := map[string]struct {
		change  func(*keeper)
		cluster []string
		nodes   [][]string
	}{
		"all is well": {func(*keeper) {}, []string{actionSwitchover}, [][]string{hurt, hurt, hurt}},
		"something is under way": {
			func(k *keeper) { k.busy = actionCrash }, nil, [][]string{nil, nil, nil},
		},
		"an old master is down": {
			func(k *keeper) { k.master, k.health[0], k.superseded[0] = 1, crashed, true },
			[]string{actionSwitchover},
			[][]string{{actionRepair}, hurt, hurt},
		},
		"an old master is frozen": {
			func(k *keeper) { k.master, k.health[0], k.superseded[0] = 1, frozen, true },
			nil,
			[][]string{{actionThaw, actionRepair}, hurt, hurt},
		},
		"an old master is thawed": {
			func(k *keeper) { k.master, k.superseded[0] = 1, true },
			[]string{actionSwitchover},
			[][]string{{actionCrash, actionFreeze, actionRepair}, hurt, hurt},
		},
		"no replica is left": {
			func(k *keeper) { k.health[1], k.health[2] = crashed, crashed },
			nil,
			[][]string{hurt, {actionRepair}, {actionRepair}},
		},
		"nobody could take over": {
			func(k *keeper) { k.health = []health{crashed, crashed, frozen} },
			nil,
			[][]string{{actionRepair}, nil, {actionThaw}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := idleKeeper()
			test.change(k)
			_, cluster, nodes := k.offers()
			if !slices.Equal(cluster, test.cluster) || !slices.EqualFunc(nodes, test.nodes, slices.Equal) {
				t.Errorf("got %v %v, want %v %v", cluster, nodes, test.cluster, test.nodes)
			}
		})
	}
}

func TestWhatIsNotOnOfferIsRefused(t *testing.T) {
	t.Parallel()
	k := idleKeeper()
	for _, ask := range [][2]string{{actionRepair, "pg1"}, {actionCrash, "pg9"}, {actionCrash, ""}, {"dance", "pg1"}, {actionSwitchover, "pg1"}} {
		err := k.begin(t.Context(), ask[0], ask[1], func(error) { t.Errorf("%v began", ask) })
		if !errors.Is(err, dashboard.ErrRefused) {
			t.Errorf("%v: %v", ask, err)
		}
	}
	k.begun.Wait()
}
