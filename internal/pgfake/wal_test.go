package pgfake

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestPromotionIsToldWithTheNextAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg2")
		conn := connect(t, n)
		do(t, conn, "begin")
		n.Promote()
		status := conn.PgConn().ParameterStatus
		equal(t, "standby before a query", status("in_hot_standby"), "on")
		_, err := conn.Exec(t.Context(), "write early")
		wantState(t, err, "25006") // the transaction began on a replica
		equal(t, "standby after it", status("in_hot_standby"), "off")
		do(t, conn, "rollback", "write late")
		equal(t, "timeline", n.State().Timeline, 2)
		equal(t, "survived", c.Survived("late"), true)
	})
}

func TestDefaultReadOnlyIsToldAndObeyed(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		n.SetDefaultReadOnly(true)
		_, err := conn.Exec(t.Context(), "write no")
		wantState(t, err, "25006")
		equal(t, "reported", conn.PgConn().ParameterStatus("default_transaction_read_only"), "on")
		equal(t, "shown", ask[string](t, conn, "show transaction_read_only"), "on")
		do(t, conn, "set session characteristics as transaction read write", "write yes")
		equal(t, "reported", conn.PgConn().ParameterStatus("default_transaction_read_only"), "off")
	})
}

func TestDatabaseSettingIsKeptBySessionsBegunUnderIt(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		master, replica := c.Node("pg1"), c.Node("pg2")
		before := connect(t, master)
		master.AlterDatabase(true)
		during, there := connect(t, master), connect(t, replica)
		equal(t, "the position", replica.State().LSN, StartLSN+WriteSize)
		readOnly := func(conn *pgx.Conn) string {
			return ask[string](t, conn, "show transaction_read_only", pgx.QueryExecModeExec)
		}
		equal(t, "begun before", readOnly(before), "off")
		equal(t, "begun under it", readOnly(during), "on")
		equal(t, "reported", during.PgConn().ParameterStatus("default_transaction_read_only"), "on")
		_, err := during.Exec(t.Context(), "write no")
		wantState(t, err, "25006")
		replica.AlterDatabase(false) // which PostgreSQL refuses
		equal(t, "begun after what a replica was told", readOnly(connect(t, master)), "on")

		master.AlterDatabase(false)
		equal(t, "begun after it", readOnly(connect(t, master)), "off")
		equal(t, "begun under it, afterwards", readOnly(during), "on")
		do(t, during, "set default_transaction_read_only = off", "write yes", "discard all")
		equal(t, "begun under it, discarded", readOnly(during), "on")
		master.Kill()
		replica.Promote()
		equal(t, "begun on a replica under it", readOnly(there), "on")
		equal(t, "begun on the new master", readOnly(connect(t, replica)), "off")
	})
}

func TestReplicasFollowTheMaster(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		master, near, far := c.Node("pg1"), c.Node("pg2"), c.Node("pg3")
		far.PauseReplay()
		conn := connect(t, master)
		do(t, conn, "write a", "write b")
		equal(t, "master", master.State().LSN, StartLSN+2*WriteSize)
		equal(t, "streaming replica", near.State().LSN, StartLSN+2*WriteSize)
		equal(t, "paused replica", far.State().LSN, StartLSN)

		far.SetReplayLSN(StartLSN + 150)
		equal(t, "stopped replica", far.State().LSN, StartLSN+150)
		equal(t, "its log", len(far.Log()), 1)
		master.SetWriteLSN(5000)
		equal(t, "streaming replica", near.State().LSN, 5000)
		far.ResumeReplay()
		equal(t, "resumed replica", far.State().LSN, 5000)
		equal(t, "its log", len(far.Log()), 2)

		_, err := connect(t, near).Exec(t.Context(), "write c")
		wantState(t, err, "25006")
	})
}

func TestReplayDelay(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		master, replica := c.Node("pg1"), c.Node("pg2")
		replica.SetReplayDelay(time.Second)
		do(t, connect(t, master), "write a")
		committed := time.Now()
		time.Sleep(time.Second - 1)
		equal(t, "too early", replica.State().LSN, StartLSN)
		time.Sleep(time.Nanosecond)
		state := replica.State()
		equal(t, "in time", state.LSN, StartLSN+WriteSize)
		equal(t, "replayed at", state.ReplayedAt, committed)
	})
}

func TestUnreachableReplicaCatchesUp(t *testing.T) {
	faults := []struct {
		name       string
		begin, end func(*Node)
	}{
		{"cut", (*Node).Cut, (*Node).Heal},
		{"freeze", (*Node).Freeze, (*Node).Thaw},
		{"kill", (*Node).Kill, (*Node).Start},
		{"stop", (*Node).Stop, (*Node).Start},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *Cluster) {
				n := c.Node("pg2")
				f.begin(n)
				do(t, connect(t, c.Node("pg1")), "write a")
				equal(t, "streaming", n.State().Streaming, false)
				equal(t, "log", len(n.Log()), 0)
				f.end(n)
				equal(t, "streaming again", n.State().Streaming, true)
				equal(t, "log again", len(n.Log()), 1)
			})
		})
	}
}

func TestFailoverLosesWhatWasNotReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		old, next, third := c.Node("pg1"), c.Node("pg2"), c.Node("pg3")
		conn := connect(t, old)
		do(t, conn, "write kept")
		next.PauseReplay()
		do(t, conn, "write lost")
		old.Kill()
		next.Promote()
		equal(t, "kept", c.Survived("kept"), true)
		equal(t, "lost", c.Survived("lost"), false)
		equal(t, "lost, commits", c.Commits("lost"), 1)
		equal(t, "master", c.Master(), next)
		do(t, connect(t, next), "write new")

		diverged := third.State()
		equal(t, "diverged replica streams", diverged.Streaming, false)
		equal(t, "its timeline", diverged.Timeline, 1)
		equal(t, "its position", diverged.LSN, StartLSN+2*WriteSize)
		equal(t, "the new master's", next.State().LSN, StartLSN+2*WriteSize) // of another write
		equal(t, "what it holds", fmt.Sprint(tokens(third)), "[kept lost]")
		lacks := time.Now()
		time.Sleep(time.Second)
		do(t, connect(t, next), "write newer")
		equal(t, "its position", third.State().LSN, diverged.LSN)
		since, apart := third.Behind()
		equal(t, "it lacks something since", since, lacks)
		equal(t, "it holds something else", apart, true)
		third.Follow()
		equal(t, "rewound replica streams", third.State().Streaming, true)
		equal(t, "its timeline", third.State().Timeline, 2)
		since, apart = third.Behind()
		equal(t, "it lacks something since", since, time.Time{})
		equal(t, "it holds something else", apart, false)

		old.Start()
		equal(t, "old master", old.State().InRecovery, false)
		old.Follow()
		equal(t, "role", ask[string](t, connect(t, old), "select role"), "replica")
		equal(t, "logs", fmt.Sprint(tokens(old), tokens(third)), fmt.Sprint(tokens(next), tokens(next)))
	})
}

func TestDemoteEndsSessionsAndComesBackAsReplica(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		ended := watch(connect(t, n))
		n.Demote()
		wantState(t, <-ended, "57P01")
		c.Node("pg3").Promote()
		equal(t, "role", ask[string](t, connect(t, n), "select role"), "replica")
		equal(t, "streaming", n.State().Streaming, true)
		equal(t, "timeline", n.State().Timeline, 2)
		c.Node("pg2").Promote()
		equal(t, "next timeline", c.Node("pg2").State().Timeline, 3)
	})
}

func TestOverriddenState(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg2")
		begun := time.Now().Add(-time.Hour)
		n.SetTimeline(9)
		n.SetSystemID(42)
		n.SetStartTime(begun)
		n.SetInRecovery(false)
		s := n.State()
		equal(t, "timeline", s.Timeline, 9)
		equal(t, "system", s.SystemID, 42)
		equal(t, "start", s.StartTime, begun)
		equal(t, "recovery", s.InRecovery, false)
		equal(t, "the other replica's master", c.Node("pg3").State().Streaming, true)
	})
}

func tokens(n *Node) (all []string) {
	for _, r := range n.Log() {
		all = append(all, r.Token)
	}
	return all
}
