package dashboard

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Source is what a dashboard shows. Its methods are called from several goroutines, often, and must not block.
type Source interface {
	// State returns what there is to show, but for the timeline. The slices are the caller's.
	State() State
	// Timeline returns the bins from a number on.
	Timeline(from int) Timeline
	// Do begins one of the actions that State offers, and does not wait for its end.
	Do(action, node string) error
}

// ErrRefused is in the chain of Do's error if the action is not on offer just now.
var ErrRefused = errors.New("not on offer now")

// Phases of a State.
const (
	Starting = "starting"
	Running  = "running"
	Ended    = "ended"
)

// Millis is a duration that JSON shows in milliseconds with one decimal.
type Millis time.Duration

// MarshalJSON implements json.Marshaler.
func (m Millis) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, m.Rounded(), 'f', -1, 64), nil
}

func (m Millis) String() string {
	if time.Duration(m) >= 100*time.Millisecond {
		return fmt.Sprintf("%.0f ms", m.Rounded())
	}
	return fmt.Sprintf("%.1f ms", m.Rounded())
}

// Rounded returns the milliseconds with one decimal.
func (m Millis) Rounded() float64 {
	return math.Round(float64(m)/float64(time.Millisecond)*10) / 10
}

// State is one look at the cluster and the application. It is what GET /api/state answers; all times are since the
// workload began.
type State struct {
	Run        string   `json:"run"`        // identifies the process; actions must name it
	Phase      string   `json:"phase"`      // starting, running or ended
	Verdict    string   `json:"verdict"`    // in one sentence, once ended
	PostgreSQL string   `json:"postgresql"` // version of the server, "" if unknown
	Now        Millis   `json:"now_ms"`
	Busy       string   `json:"busy"`     // the action that is under way
	Owned      bool     `json:"owned"`    // whether the page may break the cluster
	Promised   bool     `json:"promised"` // whether no write may be lost: replication is synchronous, as in a cluster of ours
	Actions    []string `json:"actions"`  // on offer now for the cluster: switchover
	Nodes      []Node   `json:"nodes"`
	Writes     Writes   `json:"writes"`
	Reads      Reads    `json:"reads"`
	Outages    []Outage `json:"outages"` // the latest, oldest first
	Events     []Event  `json:"events"`  // the latest, oldest first
}

// Node is what the library knows of one server.
type Node struct {
	Name        string   `json:"name"`
	Role        string   `json:"role"`     // master, replica or unknown
	Status      string   `json:"status"`   // up, suspect, down, stale or foreign
	Cause       string   `json:"cause"`    // why it is not up
	Timeline    uint32   `json:"timeline"` // 0 if unknown, as it is of a replica without pg_monitor
	Lag         *Millis  `json:"lag_ms"`   // null if unknown
	LagBytes    uint64   `json:"lag_bytes"`
	Latency     Millis   `json:"latency_ms"` // of a probe
	InUse       int32    `json:"in_use"`     // connections of its pool
	MaxConns    int32    `json:"max_conns"`
	EvidenceAge *Millis  `json:"evidence_age_ms"` // null if it never answered
	Actions     []string `json:"actions"`         // on offer now: crash, freeze, thaw, repair
}

// Writes counts what became of the writes.
type Writes struct {
	Acknowledged int    `json:"acknowledged"`
	Failed       int    `json:"failed"`             // outcome unknown
	Lost         int    `json:"lost"`               // acknowledged, and missing when it was looked for after a failover
	Stray        int    `json:"stray"`              // acknowledged by a superseded master
	Silence      Millis `json:"since_last_ack_ms"`  // since the last acknowledged one
	LastNode     string `json:"last_acknowledging"` // who acknowledged that
}

// Reads counts what became of the reads.
type Reads struct {
	Answered    int    `json:"answered"`
	Failed      int    `json:"failed"`
	LongestWait Millis `json:"longest_wait_ms"` // of one reader for an answer
}

// Outage is a time without acknowledged writes, as the application felt it.
type Outage struct {
	Kind  string `json:"kind"`     // crash, freeze, switchover; without a fault of ours failover, or pause on one and the same node
	From  string `json:"from"`     // who acknowledged the last write before
	To    string `json:"to"`       // who acknowledged the first one after
	Began Millis `json:"began_ms"` // when the last write before was acknowledged
	Ended Millis `json:"ended_ms"` // when the first one after was
	// Length is from Began to Ended.
	Length Millis `json:"outage_ms"`
	// Cluster is how long no node acknowledged the writes of a prober that talks to each node directly, past the library;
	// null if the prober saw no outage.
	Cluster *Millis `json:"cluster_outage_ms"`
	// AfterAccept is the part of Length in which the new master did accept the prober's writes; null if unknown.
	AfterAccept *Millis `json:"after_accept_ms"`
}

// Event is one line of the log.
type Event struct {
	Number int    `json:"number"` // counts from 1
	At     Millis `json:"at_ms"`
	Kind   string `json:"kind"` // fault, repair, noticed, outage or error
	Text   string `json:"text"`
}
