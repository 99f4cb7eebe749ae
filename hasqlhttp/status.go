package hasqlhttp

import (
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
)

// Status holds what a PoolManager knows about the nodes and what it has counted. [Handler] serves it as JSON and as a page.
//
// Its shape is stable: a new version may add fields, but only a new major version may rename or remove one. The name of a
// number contains its unit. Times are in the format of RFC 3339. null means unknown.
type Status struct {
	// At is the time when the document was made.
	At time.Time `json:"at"`
	// Closed is true if the PoolManager is closed. The other fields then hold the last known values.
	Closed bool `json:"closed"`
	// Masters is the number of nodes that accept writes. Replicas is the number of nodes that accept only reads.
	Masters  int `json:"masters"`
	Replicas int `json:"replicas"`
	// Paused is true while an operator holds writes back, as [hasql.PoolManager.Pause] explains.
	Paused bool `json:"paused"`
	// NoMasterSeconds is how long no master has been known; null while there is a master.
	NoMasterSeconds *float64 `json:"no_master_seconds"`
	// Nodes are in the order of the configuration.
	Nodes []Node `json:"nodes"`
	// Targets counts acquires by what they asked for: any, master, replica, prefer_replica.
	Targets map[string]Target `json:"targets"`
	// Transitions are the last changes of nodes, newest first; null without a [History].
	Transitions []Transition `json:"transitions"`
}

// Node is one node of the cluster.
type Node struct {
	// Name is the host and port, unless the configuration sets another name.
	Name string `json:"name"`
	// Zone is the availability zone; "" if none is configured.
	Zone string `json:"zone"`
	// Role is master, replica or unknown. It is unknown unless Status is up.
	Role string `json:"role"`
	// Status is up, suspect, down, stale, foreign or banned, as [hasql.Status] explains them.
	Status string `json:"status"`
	// Cause is why Status is not up, on one line; "" if it is up.
	Cause string `json:"cause"`
	// Since is the time when Role or Status changed last.
	Since time.Time `json:"since"`

	// Timeline and LSN are from the node's last answer. The LSN of a replica is its replay position.
	Timeline *uint32 `json:"timeline"`
	LSN      *string `json:"lsn"`
	// LagBytes and LagSeconds are how far the node is behind the master; 0 for the master itself.
	LagBytes   *uint64  `json:"lag_bytes"`
	LagSeconds *float64 `json:"lag_seconds"`
	// LatencySeconds is the time that a probe takes, averaged over the last few probes.
	LatencySeconds *float64 `json:"latency_seconds"`
	// EvidenceAgeSeconds is the time since the last answered probe was sent.
	EvidenceAgeSeconds *float64 `json:"evidence_age_seconds"`

	Pool Pool `json:"pool"`
	// Acquires counts the connections that the node's pool has lent. The keys are those of [Status.Targets].
	Acquires map[string]int64 `json:"acquires"`
}

// Pool is the state of one node's connection pool, in connections.
type Pool struct {
	InUse   int `json:"in_use"`  // lent
	Idle    int `json:"idle"`    // open and not lent
	Opening int `json:"opening"` // being established
	Max     int `json:"max"`     // limit of in_use, idle and opening together
	Waiting int `json:"waiting"` // acquires that wait for a connection
}

// Target counts the acquires that asked for one kind of node.
type Target struct {
	Acquires    int64   `json:"acquires"`     // connections lent
	Waits       int64   `json:"waits"`        // acquires that found no connection idle
	WaitSeconds float64 `json:"wait_seconds"` // total time of these waits
	Failures    int64   `json:"failures"`     // acquires that failed, also because their context ended
	Waiting     int64   `json:"waiting"`      // acquires that wait at this moment
}

// targetNames are the keys of [Status.Targets].
var targetNames = map[hasql.Target]string{
	hasql.TargetAny:           "any",
	hasql.TargetMaster:        "master",
	hasql.TargetReplica:       "replica",
	hasql.TargetPreferReplica: "prefer_replica",
}

// NewStatus returns the current Status. It holds each pool's lock for a moment and never waits for a node. history may be
// nil.
func NewStatus(pm *hasql.PoolManager, history *History) *Status {
	now, stat := time.Now(), pm.Stat()
	snapshot := stat.Snapshot()
	s := &Status{
		At:       now,
		Closed:   snapshot.Closed(),
		Masters:  snapshot.MasterCount(),
		Replicas: snapshot.ReplicaCount(),
		Paused:   snapshot.Paused(),
		Targets:  make(map[string]Target),
	}
	if since := snapshot.NoMasterSince(); !since.IsZero() {
		s.NoMasterSeconds = seconds(now.Sub(since))
	}
	for _, n := range stat.Nodes() {
		s.Nodes = append(s.Nodes, newNode(&n))
	}
	for target, name := range targetNames {
		t := stat.Target(target)
		s.Targets[name] = Target{Acquires: t.Acquires, Waits: t.Waits, WaitSeconds: t.WaitTime.Seconds(), Failures: t.Failures, Waiting: t.Waiting}
	}
	if history != nil {
		s.Transitions = history.newestFirst()
	}
	return s
}

func newNode(n *hasql.NodeStat) Node {
	node := Node{
		Name: n.Name, Zone: n.Zone, Role: n.Role.String(), Status: n.Status.String(), Cause: reason(n.Cause), Since: n.Since,
		Pool: Pool{
			InUse:   int(n.Pool.AcquiredConns()),
			Idle:    int(n.Pool.IdleConns()),
			Opening: int(n.Pool.ConstructingConns()),
			Max:     int(n.Pool.MaxConns()),
			Waiting: max(0, -n.Free()),
		},
		Acquires: make(map[string]int64),
	}
	if n.Report.Timeline != 0 {
		node.Timeline = &n.Report.Timeline
	}
	if n.Report.LSN != 0 {
		node.LSN = new(n.Report.LSN.String())
	}
	if n.LagKnown {
		node.LagBytes, node.LagSeconds = &n.LagBytes, seconds(n.LagTime)
	}
	if n.Latency > 0 {
		node.LatencySeconds = seconds(n.Latency)
	}
	if n.Age >= 0 {
		node.EvidenceAgeSeconds = seconds(n.Age)
	}
	for target, name := range targetNames {
		node.Acquires[name] = n.Acquires(target)
	}
	return node
}

func seconds(d time.Duration) *float64 { return new(d.Seconds()) }

// reason returns the cause of a node's status on one line. It leaves out the server's own message where that may contain the
// name of a user or a database, as in a refused login.
func reason(err error) string {
	if err == nil {
		return ""
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return strings.Join(strings.Fields(err.Error()), " ")
	}
	words := "the server reported an error"
	switch {
	case strings.HasPrefix(pgErr.Code, "57"): // starting, stopping, terminated, cancelled: these messages contain no names
		words = pgErr.Message
	case strings.HasPrefix(pgErr.Code, "28"):
		words = "the server refused the login"
	case strings.HasPrefix(pgErr.Code, "53"):
		words = "the server is short of resources"
	case pgErr.Code == "3D000":
		words = "the server has no such database"
	}
	return words + " (SQLSTATE " + pgErr.Code + ")"
}
