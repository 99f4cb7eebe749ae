package hasql

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pghasql/hasql/internal/pgfake"
)

// logged returns an edit that keeps what is logged at Warn, and what it keeps.
func logged() (edit func(*Config), logs *observer.ObservedLogs) {
	core, logs := observer.New(zap.WarnLevel)
	return func(config *Config) { config.Logger = zap.New(core) }, logs
}

// refuse makes every node of three refuse the login.
func refuse(c *pgfake.Cluster, code string) {
	for _, n := range c.Nodes() {
		n.RefuseLogin(code, "the login is refused")
	}
}

func TestWrongLoginIsToldAtOnce(t *testing.T) {
	for code, advice := range map[string]string{
		"28P01": "check the user and the password",
		"28000": "check the user, and whether the server's pg_hba.conf lets it in",
		"3D000": "check the name of the database, or create it",
		"42704": "check the settings in the DSN",
		"22023": "check the settings in the DSN",
		"42501": "grant the user the right to connect to the database",
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			refuse(c, code)
			edit, logs := logged()
			began := time.Now()
			pm := open(t, c, edit)
			_, acquired := pm.AcquireMaster(t.Context())
			_, queried := pm.Replica().Exec(t.Context(), "read")
			for _, err := range []error{acquired, queried, pm.Ready(t.Context(), 1, 0), pm.Ready(t.Context(), -1, -1)} {
				none, ok := errors.AsType[*NoNodeError](err)
				if !ok || !none.Refused || none.Found || Outcome(err) != NotApplied || errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("%s: %v", code, err)
				}
				want := ": every node refuses the login; " + advice + "; pg1:5432 suspect: server error: FATAL: the login is refused (SQLSTATE " + code +
					"); pg2:5432 suspect: as pg1:5432; pg3:5432 suspect: as pg1:5432"
				if !strings.HasSuffix(err.Error(), want) {
					t.Errorf("%s:\n%v does not end with\n%s", code, err, want)
				}
			}
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("%s: told after %v", code, took)
			}
			synctest.Wait()
			var told []string
			for _, entry := range logs.FilterMessage("node is not usable").All() {
				fields := entry.ContextMap()
				if entry.LoggerName != "hasql" || fields["advice"] != advice || !strings.Contains(fields["error"].(string), code) {
					t.Errorf("%s: %q: %v", code, entry.LoggerName, fields)
				}
				told = append(told, fields["node"].(string))
			}
			if slices.Sort(told); !slices.Equal(told, []string{"pg1:5432", "pg2:5432", "pg3:5432"}) {
				t.Errorf("%s: the log told of %q", code, told)
			}

			time.Sleep(5 * time.Second)
			if n := logs.Len(); n != 3 {
				t.Errorf("%s: %d warnings in 5 s", code, n)
			}
			for _, n := range c.Nodes() {
				n.AcceptLogin()
			}
			ctx, cancel := context.WithTimeout(t.Context(), DefaultCheckInterval*11/10)
			defer cancel()
			if err := pm.WaitFor(ctx, func(s *Snapshot) bool { return s.complete() }); err != nil {
				t.Error(err)
			}
			if err := pm.Master().Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A refusal by some nodes says nothing of the others, and one that begins later may end as it began: with the new password.
func TestRefusedLoginIsWaitedOutUnlessEveryNodeHasAlwaysRefused(t *testing.T) {
	const budget = 20 * time.Second
	for name, arrange := range map[string]func(*pgfake.Cluster){
		"one is down":               func(c *pgfake.Cluster) { c.Node("pg2").Kill() },
		"one starts":                func(c *pgfake.Cluster) { c.Node("pg2").StartingUp(true) },
		"one is silent":             func(c *pgfake.Cluster) { c.Node("pg2").Freeze() },
		"one is full":               func(c *pgfake.Cluster) { c.Node("pg2").RefuseLogin("53300", "sorry") },
		"one has a pooler":          func(c *pgfake.Cluster) { c.Node("pg2").RefuseLogin("08P01", "no server") },
		"one cannot say it is ours": func(c *pgfake.Cluster) { c.Node("pg2").AcceptLogin(); c.Node("pg2").SetSystemID(0) },
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			refuse(c, "28P01")
			arrange(c)
			pm := open(t, c, func(config *Config) { config.AcquireTimeout = budget })
			began := time.Now()
			_, err := pm.AcquireMaster(t.Context())
			none, ok := errors.AsType[*NoNodeError](err)
			if took := time.Since(began); !ok || none.Refused || took != budget {
				t.Errorf("%s: after %v %v", name, took, err)
			}
		})
	}
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = budget })
		ready(t, pm)
		refuse(c, "28P01")
		for _, n := range c.Nodes() {
			n.TerminateAll()
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		_, err := pm.AcquireMaster(t.Context())
		none, ok := errors.AsType[*NoNodeError](err)
		if took := time.Since(began); !ok || none.Refused || took != budget {
			t.Errorf("refused later: after %v %v", took, err)
		}
	})
}

func TestAcquireThatWaitsEndsWhenTheLastNodeRefusesTheLogin(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		refuse(c, "3D000")
		c.Node("pg2").Kill()
		pm := open(t, c)
		at(3*time.Second, c.Node("pg2").Start)
		began := time.Now()
		_, err := pm.AcquireMaster(t.Context())
		none, ok := errors.AsType[*NoNodeError](err)
		if took := time.Since(began); !ok || !none.Refused || took < 3*time.Second || took > 3*time.Second+25*DefaultRecoveryInterval*11/10 { // a dial backs off to a quarter of a second, and 10 %
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestErrorOfAReadHintsAtFallbackMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg2").Kill()
		c.Node("pg3").Kill()
		pm := open(t, c, func(config *Config) { config.AcquireTimeout = time.Second })
		if err := pm.Replica(WithFallbackMaster(true)).Ping(t.Context()); err != nil {
			t.Error(err)
		}
		for _, master := range []bool{true, false} {
			_, err := pm.AcquireReplica(t.Context())
			if err == nil || strings.Contains(err.Error(), "a master is up: FallbackMaster (hasql_fallback_master=true) lets reads go to it") != master {
				t.Errorf("a master: %v, %v", master, err)
			}
			c.Node("pg1").Kill()
			synctest.Wait()
		}
	})
}

func TestLogRemindsWhileThereIsNoMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		edit, logs := logged()
		pm := open(t, c, edit)
		ready(t, pm)
		c.Node("pg1").Kill()
		var waiters sync.WaitGroup
		for range 2 {
			waiters.Go(func() {
				if err := pm.Master().Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(25500 * time.Millisecond)
		c.Node("pg2").Promote()
		waiters.Wait()
		time.Sleep(time.Minute)

		reminders := logs.FilterMessage("no master").All()
		if len(reminders) != 2 {
			t.Fatalf("%d reminders in 25 s: %v", len(reminders), reminders)
		}
		for i, entry := range reminders {
			fields := entry.ContextMap()
			missing, nodes := fields["missing"].(time.Duration), fields["nodes"].([]any)
			if late := missing - time.Duration(i+1)*reminderInterval; late < 0 || late > 2*DefaultCheckInterval || fields["acquires_waiting"] != int64(2) {
				t.Errorf("reminder %d: %v", i, fields)
			}
			if len(nodes) != 3 || !strings.HasPrefix(nodes[0].(string), "pg1:5432 down: ") || !strings.HasPrefix(nodes[1].(string), "pg2:5432 up replica") {
				t.Errorf("reminder %d: %v", i, nodes)
			}
		}
	})
}

func TestReplicasAloneAreNoReasonToRemindUnlessSomebodyWaitsForAMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		c.Node("pg1").SetInRecovery(true)
		edit, logs := logged()
		pm := open(t, c, edit)
		if err := pm.Ready(t.Context(), 0, 3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := logs.FilterMessage("no master").Len(); n != 0 {
			t.Errorf("%d reminders", n)
		}
		if _, err := pm.AcquireMaster(t.Context()); err == nil {
			t.Error("there is no master")
		}
		if n := logs.FilterMessage("no master").Len(); n != 3 {
			t.Errorf("%d reminders while somebody waited for 30 s", n)
		}
	})
}

func TestLogSumsUpAnOutageInOneLine(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		edit, logs := logged()
		pm := open(t, c, edit)
		ready(t, pm)
		time.Sleep(5 * time.Second)
		before := pm.Stat()
		var work sync.WaitGroup
		held := acquire(t, pm.AcquireMaster)
		c.Node("pg1").Freeze()
		work.Go(func() {
			if _, err := held.Exec(t.Context(), "write lost"); err == nil {
				t.Error("the statement was not cut")
			}
			held.Release()
		})
		if err := pm.WaitFor(t.Context(), (*Snapshot).hunting); err != nil {
			t.Fatal(err)
		}
		lost := time.Now()
		for i := range 3 {
			work.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+10*i)*time.Second)
				defer cancel()
				if err := pm.Master().Ping(ctx); (err == nil) != (i > 0) {
					t.Error(i, err)
				}
			})
		}
		time.Sleep(4 * time.Second)
		c.Node("pg2").Promote()
		work.Wait()
		waited := time.Since(lost)
		time.Sleep(3 * time.Second)

		entries := logs.FilterMessage("failover is over").All()
		if len(entries) != 1 {
			t.Fatalf("%d lines: %v", len(entries), logs.All())
		}
		f := entries[0].ContextMap()
		if f["node"] != "pg2:5432" || f["was"] != "pg1:5432" || f["statements_repeated"] != int64(0) {
			t.Errorf("%v", f)
		}
		if f["acquires_waited"] != int64(3) || f["acquires_failed"] != int64(1) || f["longest_wait"] != waited {
			t.Errorf("waits of %v: %v", waited, f)
		}
		if gap := f["gap"].(time.Duration); gap < 4*time.Second || gap > waited {
			t.Errorf("no master for %v, and %v", waited, f)
		}
		if cut := pm.Stat().ConnectionsCut() - before.ConnectionsCut(); cut != 1 || f["connections_cut"] != cut {
			t.Errorf("%d connections were cut, and %v", cut, f)
		}
	})
}

func TestLogTellsThatTheMasterIsBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		edit, logs := logged()
		pm := open(t, c, edit)
		ready(t, pm)
		c.Handle(slow, slowly, pgfake.Text("slow"))
		var work sync.WaitGroup
		work.Go(func() {
			if _, err := pm.Master().Exec(t.Context(), slow); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		c.Node("pg1").Stop()
		time.Sleep(2 * time.Second)
		c.Node("pg1").Start()
		work.Wait()
		if err := pm.Close(t.Context()); err != nil { // though the outage may not be over for long enough
			t.Error(err)
		}
		entries := logs.FilterMessage("master is back").All()
		if len(entries) != 1 {
			t.Fatalf("%d lines: %v", len(entries), logs.All())
		}
		if f := entries[0].ContextMap(); f["node"] != "pg1:5432" || f["statements_repeated"] != int64(1) || f["acquires_waited"] != int64(1) {
			t.Errorf("%v", f)
		}
		if n := pm.Stat().StatementsRepeated(); n != 1 {
			t.Errorf("%d statements were repeated", n)
		}
	})
}
