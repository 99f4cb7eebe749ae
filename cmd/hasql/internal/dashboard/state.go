package dashboard

import (
	"errors"

	"github.com/pghasql/hasql/internal/human"
)

// Source provides what the dashboard shows. Its methods are called often, from several goroutines, and must not block.
type Source interface {
	// State returns everything to show except the timeline. The caller may change the slices.
	State() State
	// Timeline returns the bins from number from on.
	Timeline(from int) Timeline
	// Do begins one of the actions that State offers and does not wait for its end.
	Do(action, node string) error
}

// ErrRefused is in the chain of Do's error if the action is not possible at the moment.
var ErrRefused = errors.New("not possible at the moment")

// Phases of a State.
const (
	Starting = "starting"
	Running  = "running"
	Ended    = "ended"
)

// Millis is a duration that JSON shows in milliseconds with one decimal.
type Millis = human.Millis

// State is the state of the cluster and the application, as GET /api/state returns it. All times are durations since the
// start of the workload.
type State struct {
	Run        string   `json:"run"`        // identifies the process; actions must name it
	Phase      string   `json:"phase"`      // starting, running or ended
	Verdict    string   `json:"verdict"`    // result in one sentence, once the phase is ended
	PostgreSQL string   `json:"postgresql"` // version of the server, "" if unknown
	Now        Millis   `json:"now_ms"`
	Busy       string   `json:"busy"`     // the action that is running
	Owned      bool     `json:"owned"`    // whether the page may break the cluster
	Promised   bool     `json:"promised"` // whether no write may be lost, because the demo started the cluster with synchronous replication
	Paused     bool     `json:"paused"`   // whether an operator holds writes back
	Actions    []string `json:"actions"`  // possible now for the cluster: switchover, pause, resume
	Nodes      []Node   `json:"nodes"`
	Writes     Writes   `json:"writes"`
	Reads      Reads    `json:"reads"`
	Outages    []Outage `json:"outages"` // the latest, oldest first
	Events     []Event  `json:"events"`  // the latest, oldest first
}

// Node is what the library knows about one node.
type Node struct {
	Name        string   `json:"name"`
	Role        string   `json:"role"`     // master, replica or unknown
	Status      string   `json:"status"`   // up, suspect, down, stale, foreign or banned
	Cause       string   `json:"cause"`    // why the status is not up
	Timeline    uint32   `json:"timeline"` // 0 if unknown, as for a replica if the role lacks pg_monitor
	Lag         *Millis  `json:"lag_ms"`   // null if unknown
	LagBytes    uint64   `json:"lag_bytes"`
	Latency     Millis   `json:"latency_ms"` // of a probe
	InUse       int32    `json:"in_use"`     // connections in use in its pool
	MaxConns    int32    `json:"max_conns"`
	EvidenceAge *Millis  `json:"evidence_age_ms"` // time since the last answered probe was sent; null if none was answered
	Actions     []string `json:"actions"`         // possible now: crash, freeze, thaw, repair, drain, unban
}

// Writes counts the writes by their outcome.
type Writes struct {
	Acknowledged int    `json:"acknowledged"`
	Failed       int    `json:"failed"`             // outcome unknown
	Lost         int    `json:"lost"`               // acknowledged, but missing when the demo looked for them after a failover
	Stray        int    `json:"stray"`              // acknowledged by a superseded master
	Silence      Millis `json:"since_last_ack_ms"`  // time since the last acknowledged write
	LastNode     string `json:"last_acknowledging"` // the node that acknowledged it
}

// Reads counts the reads by their outcome.
type Reads struct {
	Answered    int    `json:"answered"`
	Failed      int    `json:"failed"`
	LongestWait Millis `json:"longest_wait_ms"` // of a reader, from one answer to the next
}

// Outage is a period without acknowledged writes of the application.
type Outage struct {
	Kind  string `json:"kind"`     // crash, freeze or switchover; if the demo caused no fault: failover, or pause if the master stayed the same
	From  string `json:"from"`     // the node that acknowledged the last write before
	To    string `json:"to"`       // the node that acknowledged the first write after
	Began Millis `json:"began_ms"` // when the last write before was acknowledged
	Ended Millis `json:"ended_ms"` // when the first write after was acknowledged
	// Length is the time from Began to Ended.
	Length Millis `json:"outage_ms"`
	// Cluster is how long no node accepted the writes of a prober that connects to each node directly, without the library.
	// It is null if the prober saw no outage.
	Cluster *Millis `json:"cluster_outage_ms"`
	// AfterAccept is the part of Length in which the new master already accepted the prober's writes; null if unknown.
	AfterAccept *Millis `json:"after_accept_ms"`
}

// Event is one line of the log.
type Event struct {
	Number int    `json:"number"` // counts from 1
	At     Millis `json:"at_ms"`
	Kind   string `json:"kind"` // fault, repair, noticed, outage or error
	Text   string `json:"text"`
}
