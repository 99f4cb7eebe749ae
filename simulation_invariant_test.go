package hasql

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/nodepool"
)

// slack is what a call may take beyond its budget: the last answer may be on its way.
const slack = 5 * time.Millisecond

// statementBound is what a statement may take that nobody ends but the library: until the silence of its node is noticed,
// that is given up, and its sockets are cut. A node that is merely slow is given the time of a few answers.
func statementBound(p *plan) time.Duration {
	return 2*p.checkInterval + p.downTimeout + cutGrace + 5*time.Second
}

// recoveryBound is what a cluster that works again may take to be known as such: the longest pause between two probes, a
// hung one, and the pause after it; and where sessions began read-only, the longest pause between two that settle it.
func recoveryBound(tr *truth) time.Duration {
	bound := 2*tr.plan.checkInterval + 2*time.Second
	if tr.misleads() {
		bound += maxReopenPause
	}
	return bound
}

// violate notes that an invariant does not hold.
func (s *simulation) violate(invariant, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violateLocked(invariant, format, args...)
}

func (s *simulation) violateLocked(invariant, format string, args ...any) {
	for _, f := range s.failures {
		if f.Invariant == invariant {
			return
		}
	}
	f := failure{invariant, fmt.Sprintf(format, args...), time.Since(s.began)}
	s.failures = append(s.failures, f)
	s.trace = append(s.trace, event{f.At, "VIOLATED " + f.Invariant, f.What})
}

// within is the invariant "budget": every call returns within its budget.
func (s *simulation) within(what string, began time.Time, budget time.Duration, err error) {
	if took := time.Since(began); took > budget+slack {
		s.violate("budget", "%s took %v, with a budget of %v: %v", what, took, budget, err)
	}
}

// finished looks at the end of an operation: in time, and without an error once all is well.
func (s *simulation) finished(o *operation, name string, err error) {
	s.within(fmt.Sprintf("client %d: %s", o.id, name), o.began, o.limit, err)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "25006" && s.truth.misleads() {
		return // by a connection that was made while the name led elsewhere, or a session begun read-only, and is closed now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	hasty := o.acquire < 3*slices.Max(s.plan.dialTime[:]) // may end while a connection is made
	if err != nil && !o.impatient && !hasty && !s.closed && !s.calmSince.IsZero() && o.began.After(s.calmSince) {
		s.violateLocked("liveness", "client %d: %s failed though all is well: %v", o.id, name, err)
	}
}

// lastWrite is the position of the write that was acknowledged last.
func (s *simulation) lastWrite() LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written
}

func (s *simulation) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
}

// historyEntry is one entry in the history of a node, as the library told it.
type historyEntry struct {
	at     time.Time
	status Status
	role   Role
}

// lend is a connection that an acquire returned.
type lend struct {
	at     time.Time
	node   int
	target Target
}

// lent notes the connection of an acquire, to be looked at when the hooks have been told of this moment.
func (s *simulation) lent(o *operation, conn *pgxpool.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lends = append(s.lends, lend{time.Now(), s.node(conn.Conn().Config().Host), o.target})
}

// acknowledged is the invariant "stale": no write is acknowledged by a node of an older timeline than the library knew
// of before its acquire began. Where a name leads elsewhere nobody can know. And half of the invariant "lost": what was
// acknowledged is in some log. checkSurvival has the other half.
func (s *simulation) acknowledged(o *operation, conn *pgxpool.Conn, token string) {
	record, found := s.truth.fake.Committed(token)
	s.truth.mu.Lock()
	renamed, rewoundAt := s.truth.renamed, s.truth.rewoundAt
	s.truth.mu.Unlock()
	elsewhere := renamed[0] || renamed[1] || renamed[2]
	if conn != nil {
		elsewhere = renamed[s.node(conn.Conn().Config().Host)]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acks, s.written = append(s.acks, token), LSN(record.LSN)
	switch {
	case !found && rewoundAt.Before(o.began):
		s.violateLocked("lost", "client %d: write %s was acknowledged, and is nowhere", o.id, token)
	case found && !elsewhere && record.Timeline < int(o.known.timeline):
		s.violateLocked("stale", "client %d: write %s went to timeline %d, though %d was known", o.id, token, record.Timeline, o.known.timeline)
	}
}

// failed notes what became of writes by the word of their error: nothing, if that says so.
func (s *simulation) failed(err error, tokens ...string) error {
	switch pgErr, ok := errors.AsType[*pgconn.PgError](err); {
	case pgconn.SafeToRetry(err):
		s.undone("is safe to retry: "+err.Error(), tokens...)
	case ok && pgErr.Code != "40003":
		s.undone("was answered by "+err.Error(), tokens...)
	}
	return err
}

func (s *simulation) undone(why string, tokens ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, token := range tokens {
		s.undoing[token] = why
	}
}

// checkSurvival is the invariant "lost": under synchronous replication the newest master has all that was acknowledged.
// And it is the invariants "twice", what was asked for once was not done more often, and "undone", what was said to have
// had no effect has none.
func (s *simulation) checkSurvival() {
	kept := make(map[string]bool)
	for _, record := range s.truth.fake.Master().Log() {
		kept[record.Token] = true
	}
	for token := range s.asked {
		switch times := s.truth.fake.Commits(token); {
		case times > 1:
			s.violate("twice", "write %s took effect %d times", token, times)
		case times > 0 && s.undoing[token] != "":
			s.violate("undone", "write %s took effect, and %s", token, s.undoing[token])
		}
	}
	if !s.plan.synchronous {
		return
	}
	for _, token := range s.acks {
		if !kept[token] {
			s.violate("lost", "write %s was acknowledged and did not survive", token)
		}
	}
}

// follow looks at every snapshot.
func (s *simulation) follow() {
	for prev := s.pm.Snapshot(); !prev.closed; {
		<-prev.next
		next := s.pm.Snapshot()
		s.checkOrder(prev, next)
		s.checkMembers(prev, next)
		s.checkSets(next)
		s.prove(next)
		prev = next
	}
}

// checkOrder is the invariant "evidence": neither evidence nor timeline ever goes back, but for a timeline that was given up.
func (s *simulation) checkOrder(prev, next *Snapshot) {
	switch {
	case next.identity == prev.identity && next.timeline < prev.timeline && !givenUp(next, prev.timeline):
		s.violate("evidence", "the timeline went from %d to %d", prev.timeline, next.timeline)
	case next.at.Before(prev.at):
		s.violate("evidence", "the time went from %v to %v", prev.at, next.at)
	}
	for t := range transitions(prev, next) {
		if t.joined() || t.left() {
			continue
		}
		old, new := t.old, t.new
		if new.probe < old.probe || new.probe == old.probe && old.answered && !new.answered || new.ReportedAt.Before(old.ReportedAt) {
			s.violate("evidence", "%s went from probe %d (answered: %v) to probe %d (answered: %v)",
				new.Name, old.probe, old.answered, new.probe, new.answered)
		}
	}
}

// checkMembers is half of the invariant "members": nobody leaves who was listed last, nor the master, or the last one that there
// was. checkListed has the other half.
func (s *simulation) checkMembers(prev, next *Snapshot) {
	for t := range transitions(prev, next) {
		if !t.left() {
			continue
		}
		if t.old.node == prev.incumbent && next.master().node == nil {
			s.violate("members", "%s was dropped, and there is no other master", t.old.Name)
		}
		if i := s.place(t.old); i >= 0 {
			if since := s.truth.toldOf(i); !since.IsZero() && time.Since(since) > moment {
				s.violate("members", "%s was dropped, and has been listed for %v", t.old.Name, time.Since(since))
			}
		}
	}
}

// checkListed is the other half: who is not listed any more gets no work, unless he is the master or was it last.
func (s *simulation) checkListed(o *operation, began time.Time, conn *pgxpool.Conn) {
	i := s.node(conn.Conn().Config().Host)
	since, v := s.truth.unlisted(i), s.pm.Snapshot()
	if n := s.states(v)[i]; n != nil && n.node == v.incumbent || since.IsZero() {
		return
	}
	if began.Sub(since) > 2*simulatedDiscovery {
		s.violate("members", "client %d: works on pg%d, which has not been listed for %v", o.id, i+1, time.Since(since))
	}
}

// givenUp reports whether every node says that it is on an older timeline now, or never was on this one.
func givenUp(v *Snapshot, timeline uint32) bool {
	for i := range v.nodes {
		if n := &v.nodes[i]; n.Report.Timeline >= timeline || n.highestTimeline >= timeline {
			return false
		}
	}
	return true
}

// checkSets is the invariant "sets": each node is a master, a replica or neither, there is one master at most, on the
// highest timeline, and what an acquire can pick is of the role it wants.
func (s *simulation) checkSets(v *Snapshot) {
	in := make(map[string]int)
	for n := range v.Masters() {
		in[n.Name]++
		if n.Report.Timeline != 0 && n.Report.Timeline < v.timeline {
			s.violate("sets", "%s is a master on timeline %d, and %d is known", n.Name, n.Report.Timeline, v.timeline)
		}
		for other := range v.Masters() {
			if other.Name != n.Name && !n.Report.samePostmaster(&other.Report) {
				s.violate("sets", "%s and %s are masters", n.Name, other.Name)
			}
		}
	}
	for n := range v.Replicas() {
		in[n.Name]++
	}
	for name, times := range in {
		if times > 1 {
			s.violate("sets", "%s is in two sets", name)
		}
	}
	for n := range v.Nodes() {
		if up := n.Status == StatusUp; up != (in[n.Name] == 1) || up != (n.Cause == nil) {
			s.violate("sets", "%s is %v, a %v, because of %v, and in %d sets", n.Name, n.Status, n.Role, n.Cause, in[n.Name])
		}
	}
}

// proof is that a replica has diverged, as the library's own evidence shows.
type proof struct {
	at    time.Time
	start time.Time // of the server
}

// prove looks for replicas that have what the master had not when it was asked later. Evidence alone does not tell what
// else may look like that, so the truth has a say.
func (s *simulation) prove(v *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := s.states(v)
	m := states[s.truth.master()]
	for i, n := range states {
		known := &s.proofs[i]
		if m == nil || n == nil {
			*known = proof{}
			continue
		}
		_, diverged := s.truth.nodes[i].Behind()
		switch {
		case !diverged, !known.at.IsZero() && !n.Report.StartTime.Equal(known.start):
			*known = proof{}
		case known.at.IsZero() && m.Role == RoleMaster && n.Report.InRecovery &&
			n.Report.LSN > m.Report.LSN && m.ReportedAt.After(n.positionSince):
			*known = proof{time.Now(), n.Report.StartTime}
		}
	}
}

// checkReplica is the invariants "diverged", nobody reads from a replica that is proven to have what the master has not,
// "at-least" and "lag": what a read demands of a replica is so.
func (s *simulation) checkReplica(o *operation, conn *pgxpool.Conn) {
	i := s.node(conn.Conn().Config().Host)
	state := s.truth.nodes[i].State()
	if !state.InRecovery || s.truth.wasRenamed() || time.Since(s.truth.lastTouched(i)) < s.evidenceAge() {
		return // it may have been taken for what it was before
	}
	since, diverged := s.truth.nodes[i].Behind()
	s.mu.Lock()
	defer s.mu.Unlock()
	most := o.maxLag + s.evidenceAge() + s.plan.checkInterval*11/10 // the answers are as old, and the master's as far apart
	switch proven := s.proofs[i].at; {
	case diverged && !proven.IsZero() && time.Since(proven) > time.Millisecond:
		s.violateLocked("diverged", "client %d: reads from pg%d, which is known to have diverged for %v", o.id, i+1, time.Since(proven))
	case state.LSN < int64(o.atLeast):
		s.violateLocked("at-least", "client %d: reads from pg%d at %d, and wants %d", o.id, i+1, state.LSN, o.atLeast)
	case o.maxLag > 0 && !diverged && !since.IsZero() && time.Since(since) > most:
		s.violateLocked("lag", "client %d: reads from pg%d, which is %v behind, and allows %v", o.id, i+1, time.Since(since), o.maxLag)
	}
}

// look is what is checked whenever everybody has done what can be done at this moment.
func (s *simulation) look() {
	s.checkLends()
	s.checkMaster()
	s.checkFreshness()
	s.checkCuts()
	s.checkProbes()
	s.checkSleepers()
}

// checkMaster is the invariant "master": the only node that takes writes is known as the master before long.
func (s *simulation) checkMaster() {
	i, since := s.truth.soleMaster()
	if i < 0 || time.Since(since) < recoveryBound(s.truth) || s.truth.wasRenamed() {
		return
	}
	n := s.states(s.pm.Snapshot())[i] // nil where it was promoted after it had left
	if n != nil && n.Role != RoleMaster && !s.isClosed() {
		s.violate("master", "%s has been the only master for %v, and is taken for %v, %v: %v", n.Name, time.Since(since), n.Status, n.Role, n.Cause)
	}
}

func (s *simulation) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// checkLends is the invariant "lent": when an acquire returns, its node is up in a role that was asked for.
func (s *simulation) checkLends() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lends {
		fits := false
		history := s.histories[l.node]
		for i, c := range history {
			if !c.at.After(l.at) && (i+1 == len(history) || !history[i+1].at.Before(l.at)) {
				fits = fits || c.status == StatusUp && (c.role == l.target.role() || s.plan.fallback && c.role == RoleMaster)
			}
		}
		if !fits {
			s.violateLocked("lent", "a connection to pg%d was lent at %v for a %v", l.node+1, l.at.Sub(s.began), l.target)
		}
	}
	s.lends = nil
}

func (t Target) role() Role {
	if t == TargetMaster {
		return RoleMaster
	}
	return RoleReplica
}

// checkFreshness is the invariant "fresh": a node is up by an answer that is hardly older than CheckInterval.
func (s *simulation) checkFreshness() {
	most := s.evidenceAge()
	for n := range s.pm.Snapshot().Nodes() {
		if age := time.Since(n.ReportedAt); n.Status == StatusUp && age > most+slack {
			s.violate("fresh", "%s is up by an answer of %v ago, with %v between two probes", n.Name, age, s.plan.checkInterval)
		}
	}
}

// evidenceAge is how old the answer may be by which a node is up.
func (s *simulation) evidenceAge() time.Duration {
	return s.plan.checkInterval + s.plan.checkInterval/10 + s.pm.config.CheckTimeout
}

// checkCuts is the invariant "cut": nobody waits for the answer of a node that has been given up.
func (s *simulation) checkCuts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		if c.asked.IsZero() {
			continue
		}
		history := s.histories[c.node]
		last := history[len(history)-1]
		if last.status.fenced() && time.Since(c.asked) > cutGrace+slack && time.Since(last.at) > cutGrace+slack {
			s.violateLocked("cut", "client %d has waited for pg%d for %v, which has been %v for %v",
				c.id, c.node+1, time.Since(c.asked), last.status, time.Since(last.at))
		}
	}
}

// window is a time in which the probes of a node are counted.
type window struct {
	node    *node
	began   time.Time
	probes  uint64
	refused int  // logins
	demands int  // what had been asked of replicas before
	steady  bool // whether there has been a master and the node was up
}

// mostRefusals is how many logins a node may have to refuse in a second, of a pool and a monitor that back off: at first two
// dials of the pool at a time, after 5, 10, 20 … ms, and the monitor's as often.
const mostRefusals = 30

// checkProbes is the invariants "logins", who is refused asks less and less often, and "probes": by CheckInterval while all is
// well, by RecoveryInterval at most.
func (s *simulation) checkProbes() {
	v, demands := s.pm.Snapshot(), int(s.demands.Load())
	for i, n := range s.states(v) {
		w := &s.windows[i]
		if n == nil || w.node != n.node { // it counts anew
			if *w = (window{}); n == nil {
				continue
			}
		}
		begun := n.node.checks.begun.Load()
		w.steady = w.steady && v.noMasterSince.IsZero() && n.Status == StatusUp
		length := time.Since(w.began)
		if length < time.Second {
			continue
		}
		demanded := time.Duration(2 * (demands - w.demands)) // who waits for a replica to have it asks for probes
		calm := !s.calmSince.IsZero() && w.began.After(s.calmSince)
		most := length*10/(9*s.plan.recoveryInterval) + length/s.pm.config.CheckTimeout + 4
		switch {
		case calm:
			// And a hint or two: a connection that was lost before is noticed when it is used.
			most = length*10/(9*s.plan.checkInterval) + 3 + demanded
		case w.steady && !s.changedSince(w.began):
			// Each probe that was due lets hints come anew, twice as rarely each time.
			perCheck := time.Duration(2)
			for d := s.plan.recoveryInterval; d < s.plan.checkInterval; d *= 2 {
				perCheck++
			}
			most = (length*10/(9*s.plan.checkInterval)+1)*perCheck + demanded
		}
		if count := begun - w.probes; !w.began.IsZero() && count > uint64(most) {
			s.violate("probes", "pg%d was probed %d times in %v (calm: %v), not more than %d", i+1, count, length, calm, most)
		}
		refused := s.truth.nodes[i].Refused()
		if count := refused - w.refused; !w.began.IsZero() && count > int(mostRefusals*length/time.Second) {
			s.violate("logins", "pg%d refused %d logins in %v", i+1, count, length)
		}
		*w = window{n.node, time.Now(), begun, refused, demands, v.noMasterSince.IsZero() && n.Status == StatusUp}
	}
}

// changedSince reports whether the library saw anything change since then.
func (s *simulation) changedSince(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, history := range s.histories {
		if !history[len(history)-1].at.Before(t) {
			return true
		}
	}
	return false
}

const (
	// backoff is how long ago a dial failed that may still keep an acquire from the next.
	backoff = nodepool.MaxDialBackoff + nodepool.MaxDialBackoff/10
	// moment is more than it takes to be woken and to connect.
	moment = 50 * time.Millisecond
)

// checkSleepers is the invariant "asleep": nobody waits for longer than a moment while there is a node for him.
func (s *simulation) checkSleepers() {
	asleep := make(map[*client]sleep)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		if c.since.IsZero() || time.Since(c.since) < moment || s.closed {
			continue
		}
		i := s.free(c.target.role())
		if i < 0 {
			continue
		}
		now := sleep{waiting: c.since, seen: time.Now()}
		if before := s.sleepers[c]; before.waiting.Equal(now.waiting) {
			now.seen = before.seen
		}
		if asleep[c] = now; time.Since(now.seen) > moment+2*slices.Max(s.plan.dialTime[:]) {
			s.violateLocked("asleep", "client %d has waited for a %v for %v, and pg%d is one", c.id, c.target, time.Since(c.since), i+1)
		}
	}
	s.sleepers = asleep
}

// sleep is a wait that there is no reason for, and since when that is known.
type sleep struct{ waiting, seen time.Time }

// free returns a node that is known to have a role and can lend one more connection, -1 if there is none or something is
// wrong with a node that passes for good: whoever has chosen that one waits for it until it is found out.
func (s *simulation) free(role Role) int {
	found := -1
	for n := range s.pm.Snapshot().Nodes() {
		if n.Status != StatusUp {
			continue
		}
		if s.place(&n) < 0 {
			continue
		}
		if since := s.truth.sound(s.place(&n)); since.IsZero() || time.Since(since) < backoff+moment {
			return -1
		}
		stat := n.node.pool.Stat()
		if n.Role == role && time.Since(n.Since) >= moment && stat.ConstructingConns() == 0 && stat.AcquiredConns() < stat.MaxConns() {
			found = s.place(&n)
		}
	}
	return found
}
