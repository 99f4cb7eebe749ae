package evidence

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
)

// model is a cluster of servers that write ahead logs, hand out xids, crash, recover and are promoted. It knows the truth that
// Judge has to find out from what a client can see.
type model struct {
	draw    *rand.Rand
	clock   int64
	servers []*address
	history History
	open    []*transaction // whose COMMIT was lost, and those that run
	told    int            // verdicts that were not unknown
	log     []string
}

// server is a node. Its WAL is what it has of it, with the parts of older timelines.
type address struct {
	name     string
	wal      []entry
	flushed  int // how many of wal are on disk
	up       bool
	recovery bool
	timeline uint32
	life     Life
	nextXID  uint64
	seen     bool // in recovery, on the present timeline, by a session that lasts
}

type entry struct {
	xid    uint64
	owner  int // the transaction it belongs to
	commit bool
	end    uint64
}

type transaction struct {
	id     int
	server *address
	trace  Trace
	over   bool // its COMMIT was sent, and the answer lost
}

func newModel(seed uint64) *model {
	m := &model{draw: rand.New(rand.NewPCG(seed, 1))}
	for i := range 3 {
		m.servers = append(m.servers, &address{name: fmt.Sprint("pg", i), up: true, recovery: i > 0, timeline: 1, nextXID: 10, life: Life{Timeline: 1, Started: 1}})
	}
	m.servers[0].life = Life{Timeline: 1, Started: 2}
	return m
}

func (m *model) master() *address {
	var newest *address
	for _, s := range m.servers {
		if s.up && !s.recovery && (newest == nil || s.timeline > newest.timeline) {
			newest = s
		}
	}
	return newest
}

func (s *address) write(e entry) uint64 {
	e.end = 100
	if n := len(s.wal); n > 0 {
		e.end = s.wal[n-1].end + 56
	}
	s.wal = append(s.wal, e)
	s.nextXID = max(s.nextXID, e.xid+1)
	return e.end
}

// recover forgets what was not on disk, and replays the rest.
func (s *address) recover(started int64) {
	s.wal = s.wal[:s.flushed]
	s.nextXID = 10
	end := uint64(44)
	for _, e := range s.wal {
		s.nextXID, end = max(s.nextXID, e.xid+1), e.end
	}
	s.up, s.life = true, Life{s.timeline, end, started}
	if !s.recovery {
		s.write(entry{owner: -1}) // the checkpoint at the end of recovery
		s.flushed = len(s.wal)
	}
}

// step is one event, of the cluster or of what the client sees of it.
func (m *model) step() {
	m.clock++
	s := m.servers[m.draw.IntN(len(m.servers))]
	if busy := m.master(); busy != nil && m.draw.IntN(2) == 0 {
		s = busy
	}
	event := m.draw.IntN(15)
	m.log = append(m.log, fmt.Sprintf("%d: %d on %s up %v recovery %v timeline %d life %v wal %d", m.clock, event, s.name, s.up, s.recovery, s.timeline, s.life, len(s.wal)))
	switch event {
	case 0, 1, 2: // a transaction begins, and the client learns of it
		if s.up && !s.recovery {
			xid := s.nextXID
			t := &transaction{id: m.fresh(), server: s}
			t.trace = Trace{Node: s.name, Life: s.life, XID: xid}
			t.trace.LSN = s.write(entry{xid: xid, owner: t.id})
			if m.draw.IntN(2) == 0 && s.flushed > 0 {
				m.history.Flushed(s.name, s.life, s.wal[s.flushed-1].end)
			}
			m.open = append(m.open, t)
		}
	case 3, 4: // one of them commits, and its answer is lost; or is not even heard of
		if t := m.anyOpen(); t != nil && !t.over {
			t.over = true
			if t.alive() && m.draw.IntN(4) > 0 {
				t.server.write(entry{xid: t.trace.XID, owner: t.id, commit: true})
				t.server.flushed = len(t.server.wal)
			}
		}
	case 5: // a stranger commits
		if s.up && !s.recovery {
			s.write(entry{xid: s.nextXID, owner: m.fresh(), commit: true})
			s.flushed = len(s.wal)
		}
	case 6: // the log is written out without a commit
		s.flushed = max(s.flushed, s.flushed+m.draw.IntN(len(s.wal)-s.flushed+1))
	case 7: // crash; kill -9
		s.up, s.seen = false, false
	case 8: // start, or the crash of a backend, which leaves the start time as it is
		started := m.clock
		if s.up && m.draw.IntN(2) == 0 {
			started = s.life.Started
		}
		s.recover(started)
		s.seen = false
	case 9: // promotion
		if s.up && s.recovery {
			m.promote(s)
		}
	case 10: // replication
		m.replicate(s)
	case 11: // the old master rejoins: it is rewound
		if now := m.master(); now != nil && s != now && s.timeline < now.timeline {
			s.wal = append([]entry(nil), now.wal[:now.flushed]...)
			s.flushed, s.timeline, s.recovery, s.seen = len(s.wal), now.timeline, true, false
			s.recover(m.clock)
		}
	case 12, 13: // the monitor has a look
		m.look(s)
	case 14: // a restart in order, which replays nothing
		if s.up && !s.recovery {
			s.write(entry{owner: -1}) // the checkpoint of the shutdown
			s.flushed, s.life = len(s.wal), Life{s.timeline, 0, m.clock}
		}
	}
	m.judge()
}

var serial int

func (m *model) fresh() int {
	serial++
	return serial
}

func (m *model) anyOpen() *transaction {
	if len(m.open) == 0 {
		return nil
	}
	return m.open[m.draw.IntN(len(m.open))]
}

// alive reports whether the session of a transaction still is.
func (t *transaction) alive() bool {
	return t.server.up && t.server.life == t.trace.Life && !t.server.recovery
}

func (m *model) promote(s *address) {
	highest := uint32(0)
	for _, other := range m.servers {
		highest = max(highest, other.timeline)
	}
	end := uint64(44)
	if n := len(s.wal); n > 0 {
		end = s.wal[n-1].end
	}
	parent := s.timeline
	s.timeline, s.recovery = highest+1, false
	s.life = Life{s.timeline, end, s.life.Started}
	s.write(entry{owner: -1})
	s.flushed = len(s.wal)
	if s.seen {
		m.history.Seen(s.name, s.life, parent, 0)
	}
	s.seen = false
}

// replicate sends a standby a part of what its master has on disk, if it has nothing else.
func (m *model) replicate(s *address) {
	now := m.servers[m.draw.IntN(len(m.servers))]
	if !s.recovery || !s.up || now.recovery || !now.up || len(s.wal) > now.flushed {
		return
	}
	for i, e := range s.wal {
		if e != now.wal[i] {
			return
		}
	}
	if s.timeline > now.timeline {
		return
	}
	more := now.wal[len(s.wal):now.flushed]
	if s.timeline < now.timeline && now.life.Timeline == now.timeline { // it turns to the new timeline as a whole
		if len(s.wal)+len(more) < now.flushed {
			return
		}
		s.seen = false
	}
	if s.timeline == now.timeline && len(more) > 0 {
		more = more[:m.draw.IntN(len(more)+1)]
	}
	s.wal = append(s.wal[:len(s.wal):len(s.wal)], more...)
	s.flushed, s.timeline = len(s.wal), now.timeline
	for _, e := range s.wal {
		s.nextXID = max(s.nextXID, e.xid+1)
	}
}

// look is a probe, which may find nobody, and may find that out or not.
func (m *model) look(s *address) {
	switch {
	case m.draw.IntN(6) == 0:
		m.history.Lost(s.name)
	case s.up && s.recovery:
		s.seen = true
	case s.up:
		m.history.Seen(s.name, s.life, 0, 0)
	}
}

// judge compares every verdict with the truth.
func (m *model) judge() {
	now := m.master()
	if now == nil {
		return
	}
	if m.history.of(now.name).life != now.life {
		return // nobody is used before a monitor has seen it
	}
	for _, t := range m.open {
		if !t.over {
			continue
		}
		a := Answer{Node: now.name, Life: now.life, Status: now.status(t)}
		v, _ := Judge(t.trace, a, &m.history, false)
		applied := now.holds(t.id)
		if v == Applied && !applied || v == NotApplied && applied {
			panic(fmt.Sprintf("%v: applied is %v, judged %v", t.trace, applied, v))
		}
		if v == Applied || v == NotApplied {
			m.told++
		}
	}
	if len(m.open) > 12 {
		m.open = m.open[1:]
	}
}

// status is what pg_xact_status says.
func (s *address) status(t *transaction) Status {
	for _, e := range s.wal {
		if e.xid == t.trace.XID && e.commit {
			return Committed
		}
	}
	if t.trace.XID >= s.nextXID || s.life == t.trace.Life && !t.over {
		return InProgress
	}
	return Aborted
}

func (s *address) holds(id int) bool {
	for _, e := range s.wal {
		if e.owner == id && e.commit {
			return true
		}
	}
	return false
}

// A look that misses a restart must lead to no verdict. So lives that come and go while the monitor is elsewhere have to be noted
// as such: the model's monitor looks between any two lives of a server, or is known not to have.
func (m *model) watch() {
	for _, s := range m.servers {
		r := m.history.of(s.name)
		if s.up && !s.recovery && r.life != s.life && m.draw.IntN(3) > 0 {
			m.history.Seen(s.name, s.life, 0, 0)
		} else if s.up && !s.recovery && r.life != s.life {
			m.history.Lost(s.name)
		}
	}
}

// TestVerdictsAreTrue has random clusters crash, restart and fail over, and compares each verdict with what became of the
// transaction. HASQL_VERDICT_SEEDS is the number of clusters.
func TestVerdictsAreTrue(t *testing.T) {
	seeds := 2000
	if n, err := strconv.Atoi(os.Getenv("HASQL_VERDICT_SEEDS")); err == nil {
		seeds = n
	}
	told := 0
	for seed := range seeds {
		m := newModel(uint64(seed))
		func() {
			defer func() {
				if r := recover(); r != nil {
					t.Fatalf("seed %d: %v\n%s", seed, r, strings.Join(m.log[max(0, len(m.log)-60):], "\n"))
				}
			}()
			for range 300 {
				m.step()
				m.watch()
			}
		}()
		told += m.told
	}
	if told == 0 {
		t.Error("nothing was ever known")
	}
	t.Logf("%d verdicts", told)
}

// TestRestartInOrderLosesNothing is about a life that began without a recovery, so that it has no position where one ended.
func TestRestartInOrderLosesNothing(t *testing.T) {
	before, after := Life{Timeline: 1, Recovered: 50, Started: 1}, Life{Timeline: 1, Started: 2}
	trace, answer := Trace{Node: "pg0", Life: before, XID: 10, LSN: 100}, Answer{Node: "pg0", Life: after, Status: Committed}
	for flushed, want := range map[uint64]Verdict{99: Unknown, 100: Applied} {
		var h History
		h.Seen("pg0", before, 0, 0)
		h.Flushed("pg0", before, flushed)
		h.Seen("pg0", after, 0, 0)
		if got, why := Judge(trace, answer, &h, false); got != want {
			t.Errorf("flushed up to %d: %v %s", flushed, got, why)
		}
	}
}

// What a service asks by itself is true only where the transaction can't be applied any more.
func TestTransactionIsOver(t *testing.T) {
	life := Life{Timeline: 2, Recovered: 100, Started: 1}
	trace := Trace{Node: "pg0", SystemID: 7, Life: life, XID: 10}
	for name, test := range map[string]struct {
		trace   Trace
		answer  Answer
		several bool
		over    bool
	}{
		"forgotten":                   {trace, Answer{Node: "pg0", Life: life}, false, true},
		"forgotten by one of several": {trace, Answer{Node: "pg0", Life: life}, true, true},
		"running":                     {trace, Answer{Node: "pg0", Life: life, Status: InProgress}, false, false},
		"a restart":                   {trace, Answer{Node: "pg0", Life: Life{2, 200, 2}}, false, true},
		"a promotion":                 {trace, Answer{Node: "pg1", Life: Life{3, 200, 2}, Status: Committed}, false, true},
		"another master of several":   {trace, Answer{Node: "pg1", Life: Life{3, 200, 2}}, true, false},
		"an older timeline":           {trace, Answer{Node: "pg1", Life: Life{1, 200, 2}}, false, false},
		"promoted beside it":          {trace, Answer{Node: "pg1", Life: Life{2, 200, 2}}, false, false},
		"another cluster":             {trace, Answer{Node: "pg1", SystemID: 8, Life: Life{3, 200, 2}}, false, false},
		"no timeline":                 {trace, Answer{Node: "pg1"}, false, false},
		"no id":                       {Trace{Node: "pg0", Life: life}, Answer{Node: "pg1", Life: Life{3, 200, 2}}, false, false},
	} {
		if got := Over(test.trace, test.answer, test.several); got != test.over {
			t.Errorf("%s: %v", name, got)
		}
	}
}
