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

// A pool that is full, and a master that cannot be connected to, are not "no master".
func TestNoNodeErrorTellsWhatWasMissing(t *testing.T) {
	up := func(role Role) NodeState {
		return NodeState{Name: "pg1:5432", Status: StatusUp, Role: role, node: &node{load: nodepool.NewLoad(4)}}
	}
	down := func(name string) NodeState {
		return NodeState{Name: name, Status: StatusDown, Cause: errors.New("no route to host")}
	}
	for _, test := range []struct {
		err  NoNodeError
		want string
	}{
		{
			NoNodeError{Nodes: []NodeState{up(RoleMaster)}, Found: true, InUse: 4},
			"no connection to a master within 1s: all 4 are in use (why); pg1:5432 up master, 0 of 4 connections in use",
		},
		{
			NoNodeError{Nodes: []NodeState{up(RoleMaster)}, Found: true, tried: map[string]error{"pg1:5432": errors.New("too many clients")}},
			"no connection to a master within 1s (why); pg1:5432 up master, 0 of 4 connections in use: too many clients",
		},
		{
			NoNodeError{Nodes: []NodeState{up(RoleReplica)}},
			"no master within 1s (why); pg1:5432 up replica, 0 of 4 connections in use, lag unknown",
		},
		{
			NoNodeError{Nodes: []NodeState{down("pg1:5432"), up(RoleReplica), down("pg3:5432")}},
			"no master within 1s (why); pg1:5432 down: no route to host; pg1:5432 up replica, 0 of 4 connections in use, lag unknown; pg3:5432 down: as pg1:5432",
		},
	} {
		test.err.Wanted, test.err.Waited, test.err.cause = "master", time.Second, errors.New("why")
		if got := test.err.Error(); got != "hasql: "+test.want {
			t.Errorf("\ngot  %s\nwant hasql: %s", got, test.want)
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

// While no master answers, a replica that has all that was known to be written may still be up to date.
func TestUnknownLagIsNotTold(t *testing.T) {
	for _, test := range []struct {
		known bool
		bytes uint64
		time  time.Duration
		want  string
	}{
		{false, 0, 0, ", lag unknown"},
		{true, 0, 0, ""},
		{true, 0, 21 * time.Second, ", lag unknown, at most 21s"},
		{true, 8, 21 * time.Second, ", 21s behind"},
	} {
		n := NodeState{Name: "pg1", Status: StatusUp, Role: RoleReplica, LagKnown: test.known, LagBytes: test.bytes, LagTime: test.time, node: &node{load: nodepool.NewLoad(4)}}
		if want := "pg1 up replica, 0 of 4 connections in use" + test.want; n.String() != want {
			t.Errorf("%s, not %s", n, want)
		}
	}
}

func TestNodesPrintAsOneLine(t *testing.T) {
	n := NodeState{Name: "pg1:5432", Status: StatusUp, Role: RoleReplica, LagKnown: true, LagBytes: 1, LagTime: time.Second, node: &node{load: nodepool.NewLoad(4)}}
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
