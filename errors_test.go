package hasql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/nodepool"
	"github.com/pghasql/hasql/internal/pgerr"
	"github.com/pghasql/hasql/internal/pgfake"
)

func TestNoNodeErrorTellsEachCauseOnce(t *testing.T) {
	const cause = "192.0.2.7:5432: dial error: connection refused"
	refused := &pgerr.ConnectError{Err: errors.New(cause)}
	for _, test := range []struct {
		tried error
		want  string
	}{
		{nil, "pg1:5432 down: " + cause},
		{refused, "pg1:5432 down: " + cause},
		{&nodepool.DialBackoffError{Err: refused}, "pg1:5432 down: " + cause},
		{errors.New("too many clients"), "pg1:5432 down: " + cause + ": too many clients"},
	} {
		err := &NoNodeError{
			Wanted: "master", Waited: 1500 * time.Millisecond, cause: context.DeadlineExceeded,
			Nodes: []NodeState{{Name: "pg1:5432", Status: StatusDown, Cause: refused}},
			tried: map[string]error{"pg1:5432": test.tried},
		}
		if want := "hasql: no master within 1.5s (context deadline exceeded); " + test.want; err.Error() != want {
			t.Errorf("\ngot  %v\nwant %s", err, want)
		}
	}
}

func TestReadyTellsWhatItWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, name := range []string{"pg1", "pg2", "pg3"} {
			c.Node(name).Kill()
		}
		pm := open(t, c)
		ended, end := context.WithCancel(t.Context())
		end()
		for _, test := range []struct {
			masters, replicas int
			want              string
		}{
			{1, 0, "no master"},
			{0, 1, "no replica"},
			{1, 1, "no set of 1 master and 1 replica"},
			{0, 2, "no set of 0 masters and 2 replicas"},
			{-1, -1, "no full set of nodes"},
		} {
			if err := pm.Ready(ended, test.masters, test.replicas); !strings.HasPrefix(err.Error(), "hasql: "+test.want+" and no time to wait (context canceled); ") {
				t.Errorf("Ready(%d, %d): %v", test.masters, test.replicas, err)
			}
		}
	})
}

func TestNodesPrintAsOneLine(t *testing.T) {
	n := NodeState{Name: "pg1:5432", Status: StatusUp, Role: RoleReplica, LagKnown: true, LagTime: time.Second, node: &node{load: nodepool.NewLoad(4)}}
	const want = "pg1:5432 up replica, 0 of 4 connections in use, 1s behind"
	for _, v := range []any{n, &n, Candidate{NodeState: &n}, NodeStat{NodeState: n}, &NodeStat{NodeState: n}} {
		for _, format := range []string{"%v", "%s", "%+v"} {
			if got := fmt.Sprintf(format, v); got != want {
				t.Errorf("%s of %T: %s", format, v, got)
			}
		}
	}
	if got := fmt.Sprint([]NodeState{n, n}); got != "["+want+" "+want+"]" {
		t.Errorf("several: %s", got)
	}
}
