package hasql

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

// stuckQueue runs a queue whose first announcement is told only once release is called. The end of the queue closes done.
func stuckQueue(log *zap.Logger, tell func(*announcement)) (q *eventQueue, release func(), done chan struct{}) {
	q, done = newEventQueue(), make(chan struct{})
	hold := make(chan struct{})
	q.add(announcement{what: nodeChanged, new: NodeState{Name: "the first", Status: StatusUp}})
	go func() {
		defer close(done)
		q.run(func(a *announcement) {
			if a.new.Name == "the first" {
				<-hold
				return
			}
			tell(a)
		}, log)
	}()
	synctest.Wait()
	return q, func() { close(hold) }, done
}

// lost sums up what the warnings say was merged and left out.
func lost(logs *observer.ObservedLogs) (changes, probes int) {
	for _, entry := range logs.FilterMessageSnippet("too slow").All() {
		fields := entry.ContextMap()
		changes += int(fields["changes"].(int64))
		probes += int(fields["probes"].(int64))
	}
	return changes, probes
}

func TestSlowHookIsToldEveryChangeUpToABound(t *testing.T) {
	for _, changes := range []int{maxWaiting, 20 * maxWaiting} {
		testenv.Bubble(t, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			var told []announcement
			q, release, done := stuckQueue(zap.New(core), func(a *announcement) { told = append(told, *a) })

			// Three nodes and a master that change at random, each from what it was.
			r := rand.New(rand.NewPCG(1, uint64(changes)))
			now := map[string]NodeState{}
			for _, name := range []string{"pg1", "pg2", "pg3"} {
				now[name] = NodeState{Name: name}
			}
			for i := range changes {
				name := fmt.Sprint("pg", 1+r.IntN(4))
				a := announcement{what: nodeChanged, old: now[name], gap: time.Duration(i)}
				if name == "pg4" { // the master: old is always the last there was
					a.what = masterChanged
					if a.old.Name == "" || r.IntN(2) == 0 {
						a.new = NodeState{Name: fmt.Sprint("pg", 1+r.IntN(3))}
					}
				} else {
					a.new = NodeState{Name: name, Status: (a.old.Status + 1 + Status(r.IntN(2))) % 3}
				}
				now[name] = a.new
				q.add(a)
			}
			if most := maxWaiting + 3 + 1; len(q.queue) > most {
				t.Errorf("%d announcements wait after %d", len(q.queue), changes)
			}
			release()
			q.close()
			<-done

			for i, a := range told[:min(len(told), maxWaiting/2)] {
				if a.what == nodeChanged && a.old.Status == a.new.Status || a.gap != time.Duration(i) {
					t.Fatalf("announcement %d of %d was merged though there was room: %+v", i, len(told), a)
				}
			}
			last := map[string]NodeState{"pg1": {Name: "pg1"}, "pg2": {Name: "pg2"}, "pg3": {Name: "pg3"}}
			for i, a := range told {
				key := a.new.Name
				if a.what == masterChanged {
					key = "pg4"
				} else if a.old.Status != last[key].Status || a.new.Status == a.old.Status {
					t.Fatalf("announcement %d: %s went from %v to %v, and was told as %v", i, key, a.old.Status, a.new.Status, last[key].Status)
				}
				last[key] = a.new
			}
			for name, want := range now {
				if got := last[name]; got.Name != want.Name || got.Status != want.Status {
					t.Errorf("%s was told last as %v, and is %v", name, got, want)
				}
			}
			merged, _ := lost(logs)
			if len(told)+merged != changes || (merged == 0) != (changes <= maxWaiting) {
				t.Errorf("of %d changes %d were told and %d merged by the warnings", changes, len(told), merged)
			}
		})
	}
}

func TestProbesAreLeftOutOfASlowLog(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		var told []announcement
		q, release, done := stuckQueue(zap.New(core), func(a *announcement) { told = append(told, *a) })
		const probes = 5 * maxWaiting
		for i := range probes {
			q.add(announcement{what: nodeProbed, new: NodeState{Name: "pg1"}})
			if i%10 == 0 && i/10 < maxWaiting/2 { // changes find room nevertheless
				q.add(announcement{what: nodeChanged, old: NodeState{Name: "pg2"}, new: NodeState{Name: "pg2", Status: StatusUp}})
			}
		}
		release()
		q.close()
		<-done
		if merged, unsaid := lost(logs); merged != 0 || unsaid != probes-maxWaiting || len(told) != maxWaiting+maxWaiting/2 {
			t.Errorf("of %d probes %d were left out; %d changes merged, %d announcements told", probes, unsaid, merged, len(told))
		}
	})
}

func TestHookThatHangsForLongKnowsThePresentInTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		core, logs := observer.New(zapcore.DebugLevel)
		hang := make(chan struct{})
		known := make(map[string]Status)
		master := ""
		pm := open(t, c, func(config *Config) {
			config.Logger = zap.New(core)
			config.Hooks.NodeChanged = func(old, new NodeState) {
				<-hang
				if known[new.Name] != old.Status {
					t.Errorf("%s was told as %v and then as %v", new.Name, known[new.Name], old.Status)
				}
				known[new.Name] = new.Status
			}
			config.Hooks.MasterChanged = func(_, new NodeState, _ time.Duration) { master = new.Name }
		})
		ready(t, pm)
		for range 140 { // each node changes twice each time, and so does the master
			for _, name := range []string{"pg1", "pg2", "pg3"} {
				c.Node(name).Kill()
			}
			time.Sleep(30 * time.Millisecond)
			for _, name := range []string{"pg1", "pg2", "pg3"} {
				c.Node(name).Start()
			}
			ready(t, pm)
		}
		c.Node("pg3").Kill()
		time.Sleep(time.Second)
		pm.reporter.queue.mu.Lock()
		waiting := len(pm.reporter.queue.queue)
		pm.reporter.queue.mu.Unlock()
		if waiting > 2*maxWaiting+4 {
			t.Errorf("%d announcements wait", waiting)
		}
		close(hang)
		synctest.Wait()
		if known["pg1:5432"] != StatusUp || known["pg2:5432"] != StatusUp || known["pg3:5432"] != StatusDown || master != "pg1:5432" {
			t.Errorf("the hooks know of %v and the master %q", known, master)
		}
		if merged, probes := lost(logs); merged == 0 || probes == 0 {
			t.Errorf("%d changes were merged, %d probes left out", merged, probes)
		}
	})
}
