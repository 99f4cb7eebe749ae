package hasql

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql/internal/pgfake"
)

// action is what a step does.
type action string

const (
	doNothing action = "nothing"

	// The server.
	doCrash        action = "crash"
	doStop         action = "stop"
	doStopAtOnce   action = "stop-at-once"
	doStart        action = "start" // every node that is down
	doRestart      action = "restart"
	doBackendCrash action = "backend-crash"
	doTerminate    action = "terminate" // one session
	doTerminateAll action = "terminate-all"
	doRefuse       action = "refuse"
	doAccept       action = "accept"
	doStartingUp   action = "starting-up"
	doStarted      action = "started"
	doReadOnly     action = "read-only"
	doReadWrite    action = "read-write"
	doAlter        action = "alter-database" // read-only for sessions begun from now on
	doReset        action = "reset-database" // of the newest master
	doLock         action = "lock"           // what reads read, with more readers than a pool has connections
	doUnlock       action = "unlock"

	// The process and the network.
	doFreeze      action = "freeze"
	doThaw        action = "thaw" // every node
	doCut         action = "cut"
	doCutAll      action = "cut-all" // the client is cut off, and so is each node from the others
	doCutRequests action = "cut-requests"
	doCutAnswers  action = "cut-answers"
	doHeal        action = "heal" // every node
	doSlow        action = "slow"
	doFast        action = "fast" // every node
	doSlowDials   action = "slow-dials"
	doFastDials   action = "fast-dials" // every node
	doRename      action = "rename"
	doUnname      action = "unname" // every node

	// Replication.
	doPromote      action = "promote"       // the replica that has most
	doPromoteAny   action = "promote-any"   // what it lacks is lost
	doPromoteAlone action = "promote-alone" // on a timeline that another one may have too
	doRejoin       action = "rejoin"        // every node that does not follow the newest master
	doPause        action = "pause"
	doResume       action = "resume" // every node

	// Discovery.
	doLeave       action = "leave"        // the node is not listed
	doRelabel     action = "relabel"      // it is listed under another name
	doWrongList   action = "wrong-list"   // it is the only one that is listed of this cluster
	doFindNothing action = "find-nothing" // or fail
	doList        action = "list"         // all is as it is

	// The client.
	doHog       action = "hog" // every connection of a node's pool
	doCancelAll action = "cancel-all"
	doCheck     action = "check"
	doClosing   action = "close"
)

// truth is the cluster as it is, whatever the library knows of it.
type truth struct {
	fake  *pgfake.Cluster
	nodes []*pgfake.Node
	plan  *plan

	mu         sync.Mutex         // guards what dials look at
	names      [3]string          // which node a name leads to
	renamed    [3]bool            // whether it ever led to another one
	ill        [3]map[action]bool // what is wrong with a node, by what would cure it
	touchedAt  [3]time.Time
	rewoundAt  time.Time // when a node last lost a part of its log
	label      [3]string // what discovery calls a node, "" if it does not list it
	strange    bool      // whether it lists nodes that are none
	lost       int       // what it answers if it has no list: an error or nothing
	unlistedAt [3]time.Time
	toldSince  [3]time.Time // since when every list that was told has the node, zero if the last one has not
	alone      int          // the only node that works as a master, -1 if there is none or more
	aloneSince time.Time
	promotions int
	altered    bool // whether the database was ever read-only for sessions that began then
}

func newTruth(p *plan) *truth {
	tr := &truth{fake: pgfake.New("pg1", "pg2", "pg3"), plan: p, aloneSince: time.Now()}
	tr.nodes = tr.fake.Nodes()
	tr.fake.Skew(true)
	tr.fake.Synchronous(p.synchronous)
	for i, n := range tr.nodes {
		tr.names[i], tr.label[i], tr.toldSince[i] = n.Name(), n.Addr(), time.Now()
		tr.ill[i] = make(map[action]bool)
		n.Latency(p.latency[i])
		n.DialTime(p.dialTime[i])
	}
	handleProbe(tr.fake, tr.answer)
	// A write that the library may repeat, as it may not the fake's own.
	tr.fake.Handle("insert $1", func(s *pgfake.Session, args []string) (*pgfake.Result, error) {
		return &pgfake.Result{Tag: "INSERT 0 1"}, s.Write(args[0])
	}, pgfake.Text("token"))
	return tr
}

// wasRenamed reports whether any name ever led to another node.
func (tr *truth) wasRenamed() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Contains(tr.renamed[:], true)
}

// misleads reports whether a session may be other than its node: made by a name that led elsewhere, or begun read-only.
func (tr *truth) misleads() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.altered || slices.Contains(tr.renamed[:], true)
}

// answer is what a node says to a probe; with pg_monitor a standby also tells the timeline that it receives.
func (tr *truth) answer(s *pgfake.Session, args []string) (*pgfake.Result, error) {
	result, err := answerProbe(s, args)
	if state := s.Node().State(); err == nil && tr.plan.monitor && state.InRecovery && state.Streaming {
		result.Rows[0][2] = state.Timeline
	}
	return result, err
}

// lookup is the name service.
func (tr *truth) lookup(_ context.Context, host string) ([]string, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for i, n := range tr.nodes {
		if n.Name() == host {
			return []string{tr.names[i]}, nil
		}
	}
	return nil, fmt.Errorf("no such host: %s", host)
}

// dial is the DialFunc for a name. A dial that hung until the name led elsewhere fails: its connection would stay for good.
func (tr *truth) dial(host string) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := tr.fake.Dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		addresses, err := tr.lookup(ctx, host)
		if err != nil || net.JoinHostPort(addresses[0], "5432") != address {
			_ = conn.Close()
			return nil, fmt.Errorf("%s is no longer %s", host, address)
		}
		return conn, nil
	}
}

// do takes a step on the cluster.
func (tr *truth) do(s step) {
	defer tr.count()
	switch s.node {
	case theMaster:
		tr.doTo(tr.master(), s)
	case everyNode:
		for i := range tr.nodes {
			tr.doTo(i, s)
		}
	default:
		tr.doTo(s.node, s)
	}
}

func (tr *truth) doTo(i int, s step) {
	n := tr.nodes[i]
	switch s.do {
	case doCrash:
		tr.harm(i, doStart, n.Kill)
	case doStop:
		tr.harm(i, doStart, n.Stop)
	case doStopAtOnce:
		tr.harm(i, doStart, n.StopImmediate)
	case doRestart:
		tr.touch(i)
		n.Kill()
		n.Start()
	case doBackendCrash:
		tr.touch(i)
		n.Crash()
	case doTerminate:
		tr.touch(i)
		if pids := n.PIDs(); len(pids) > 0 {
			n.Terminate(pids[s.draw%len(pids)])
		}
	case doTerminateAll:
		tr.touch(i)
		n.TerminateAll()
	case doRefuse:
		tr.harm(i, doAccept, func() { n.RefuseLogin([]string{"53300", "28P01", "3D000"}[s.draw%3], "not now") })
	case doStartingUp:
		tr.harm(i, doStarted, func() { n.StartingUp(true) })
	case doReadOnly:
		tr.harm(i, doReadWrite, func() { n.SetDefaultReadOnly(true) })
	case doAlter:
		tr.alter(i)
	case doReset:
		tr.reset()
	case doLock:
		n.LockTable() // which is no illness: nothing else is to be disturbed by it
	case doUnlock:
		n.UnlockTable()
	case doSlowDials:
		tr.harm(i, doFastDials, func() { n.DialTime(s.wait) })
	case doFreeze:
		tr.harm(i, doThaw, n.Freeze)
	case doCut:
		tr.harm(i, doHeal, n.Cut)
	case doCutRequests:
		tr.harm(i, doHeal, n.CutRequests)
	case doCutAnswers:
		tr.harm(i, doHeal, n.CutAnswers)
	case doCutAll:
		for i, n := range tr.nodes {
			tr.harm(i, doHeal, n.Cut)
		}
	case doSlow:
		tr.harm(i, doFast, func() { n.Latency(s.wait) })
	case doPause:
		tr.harm(i, doResume, n.PauseReplay)
	case doRename:
		tr.harm(i, doUnname, func() {
			tr.mu.Lock()
			defer tr.mu.Unlock()
			tr.names[i], tr.renamed[i] = tr.nodes[(i+1+s.draw%2)%3].Name(), true
		})
	case doPromote, doPromoteAny, doPromoteAlone:
		tr.promote(s.do, i)
	case doRejoin:
		tr.rejoin()
	case doLeave, doRelabel, doWrongList, doFindNothing:
		tr.list(i, s)
	case doList:
		tr.listAll()
	default:
		tr.mend(s.do)
	}
}

// list changes what discovery tells.
func (tr *truth) list(i int, s step) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch s.do {
	case doLeave:
		tr.unlistLocked(i)
	case doRelabel:
		if tr.label[i] != "" {
			tr.label[i] = fmt.Sprintf("node-%d", s.draw)
		}
	case doWrongList:
		tr.strange = true
		for j := range tr.label {
			if j != i {
				tr.unlistLocked(j)
			}
		}
	case doFindNothing:
		tr.lost = 1 + s.draw%2
	}
}

func (tr *truth) unlistLocked(i int) {
	if tr.label[i] != "" {
		tr.label[i], tr.unlistedAt[i] = "", time.Now()
	}
}

// listAll makes discovery tell what is so.
func (tr *truth) listAll() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.strange, tr.lost = false, 0
	for i, n := range tr.nodes {
		if tr.label[i] == "" {
			tr.label[i], tr.unlistedAt[i] = n.Addr(), time.Time{}
		}
	}
}

// Discover is what discovery tells.
func (tr *truth) Discover(context.Context) (list []Endpoint, err error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch tr.lost {
	case 1:
		return nil, errors.New("no answer")
	case 2:
		return nil, nil
	}
	for i, n := range tr.nodes {
		switch {
		case tr.label[i] == "":
			tr.toldSince[i] = time.Time{}
			continue
		case tr.toldSince[i].IsZero():
			tr.toldSince[i] = time.Now()
		}
		list = append(list, Endpoint{Name: tr.label[i], Host: n.Name()})
	}
	if tr.strange {
		list = append(list, Endpoint{Host: "nobody"}, Endpoint{Host: "nothing"})
	}
	return list, nil
}

// toldOf returns since when every list that was told has a node, zero if the last one has not.
func (tr *truth) toldOf(i int) time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.toldSince[i]
}

// unlisted returns since when discovery has not listed a node, zero if it lists it or has no list.
func (tr *truth) unlisted(i int) time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.lost > 0 {
		return time.Time{}
	}
	return tr.unlistedAt[i]
}

// mend ends one kind of fault on every node that has it.
func (tr *truth) mend(do action) {
	for i, n := range tr.nodes {
		if !tr.cured(i, do) {
			continue
		}
		switch do {
		case doStart:
			n.Start()
		case doThaw:
			n.Thaw()
		case doHeal:
			n.Heal()
		case doAccept:
			n.AcceptLogin()
		case doStarted:
			n.StartingUp(false)
		case doReadWrite:
			n.SetDefaultReadOnly(false)
		case doFast:
			n.Latency(tr.plan.latency[i])
		case doFastDials:
			n.DialTime(tr.plan.dialTime[i])
		case doResume:
			n.ResumeReplay()
		case doUnname:
			tr.mu.Lock()
			tr.names[i] = n.Name()
			tr.mu.Unlock()
			for j, other := range tr.nodes { // or connections that the name led to would stay
				tr.touch(j)
				other.TerminateAll()
			}
		}
	}
}

// cured reports whether a node has something that this cures, and takes it for done.
func (tr *truth) cured(i int, do action) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if !tr.ill[i][do] {
		return false
	}
	delete(tr.ill[i], do)
	tr.touchedAt[i] = time.Now()
	return true
}

// mendAll ends every fault and makes one working cluster of what is left.
func (tr *truth) mendAll() {
	for _, do := range []action{doAccept, doStarted, doReadWrite, doFast, doFastDials, doResume, doUnname, doHeal, doThaw} {
		tr.mend(do)
	}
	tr.listAll()
	tr.nodes[tr.master()].Start()
	tr.mend(doStart)
	tr.reset()
	for _, n := range tr.nodes {
		n.UnlockTable()
	}
	tr.rejoin()
	tr.count()
}

// alter makes the database read-only for later sessions, on every node that has the log of this one.
func (tr *truth) alter(i int) {
	if state := tr.nodes[i].State(); !state.Up || state.InRecovery {
		return
	}
	for j := range tr.nodes {
		tr.harm(j, doReset, func() {})
	}
	tr.mu.Lock()
	tr.altered = true
	tr.mu.Unlock()
	tr.nodes[i].AlterDatabase(true)
}

// reset ends it on the newest master, if that works.
func (tr *truth) reset() {
	m := tr.nodes[tr.master()]
	if m.State().Up {
		m.AlterDatabase(false)
		tr.mend(doReset)
	}
}

// harm is a fault that lasts until its cure.
func (tr *truth) harm(i int, cure action, fault func()) {
	tr.mu.Lock()
	tr.ill[i][cure] = true
	tr.mu.Unlock()
	tr.touch(i)
	fault()
}

func (tr *truth) touch(i int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.touchedAt[i] = time.Now()
}

// master is the newest master, up or not.
func (tr *truth) master() int {
	m := tr.fake.Master()
	for i, n := range tr.nodes {
		if n == m {
			return i
		}
	}
	panic("a cluster always has a newest master")
}

// count notes which node is the only master, and since when.
func (tr *truth) count() {
	alone := -1
	for i, n := range tr.nodes {
		state := n.State()
		switch {
		case !state.Up || state.InRecovery:
		case alone >= 0 || i != tr.master():
			tr.alone = -1
			return
		default:
			alone = i
		}
	}
	if alone != tr.alone {
		tr.alone, tr.aloneSince = alone, time.Now()
	}
}

// soleMaster returns the node that takes writes for whoever connects now, and since when it has been the only one: -1 if
// there is none, or more, or something is wrong with it.
func (tr *truth) soleMaster() (i int, since time.Time) {
	if tr.alone < 0 {
		return -1, time.Time{}
	}
	sound := tr.sound(tr.alone)
	if sound.IsZero() {
		return -1, time.Time{}
	}
	if sound.Before(tr.aloneSince) {
		sound = tr.aloneSince
	}
	return tr.alone, sound
}

// promote makes a replica the master, if it works: the one that has most, or one that lacks something.
func (tr *truth) promote(do action, i int) {
	if do == doPromote {
		i = tr.best()
	}
	if i < 0 || !tr.nodes[i].State().Up || !tr.nodes[i].State().InRecovery {
		return
	}
	if do == doPromoteAlone {
		tr.nodes[i].PromoteAlone()
	} else {
		tr.nodes[i].Promote()
	}
	tr.promotions++
}

// best is the replica that has most, and so all that was acknowledged under synchronous replication; -1 if there is none
// that follows the newest timeline.
func (tr *truth) best() int {
	best, most, timeline := -1, int64(0), 0
	for _, n := range tr.nodes {
		timeline = max(timeline, n.State().Timeline)
	}
	for i, n := range tr.nodes {
		if state := n.State(); state.InRecovery && state.Timeline == timeline && state.LSN > most {
			best, most = i, state.LSN
		}
	}
	return best
}

// rejoin makes every working node but the newest master a replica of that.
func (tr *truth) rejoin() {
	m := tr.master()
	if !tr.nodes[m].State().Up {
		return
	}
	for i, n := range tr.nodes {
		state := n.State()
		if i != m && state.Up && (!state.InRecovery || !state.Streaming) {
			tr.mu.Lock()
			tr.rewoundAt = time.Now()
			tr.mu.Unlock()
			tr.touch(i)
			n.Follow()
		}
	}
}

// lastTouched returns when something was last done to a node.
func (tr *truth) lastTouched(i int) time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.touchedAt[i]
}

// sound returns since when nothing has been wrong with a node, zero if something is.
func (tr *truth) sound(i int) (since time.Time) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.ill[i]) > 0 {
		return time.Time{}
	}
	return tr.touchedAt[i]
}
