package pgfake

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestSynchronousCommitWaitsForAReplica(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Synchronous(true)
		conn := connect(t, c.Node("pg1"))
		do(t, conn, "write a")
		c.Node("pg2").PauseReplay()
		c.Node("pg3").Cut()
		began := time.Now()
		acknowledged := background(exec(conn, "write b"))
		time.AfterFunc(time.Second, func() {
			c.Node("pg2").ResumeReplay()
			c.Node("pg2").State() // somebody has to look for a replica to move on
		})
		if err := <-acknowledged; err != nil {
			t.Fatal(err)
		}
		equal(t, "the wait", time.Since(began), time.Second)
		_, found := c.Committed("b")
		equal(t, "b is in a log", found, true)
	})
}

func TestSynchronousCommitGoesOnWhenAReplicaIsHeardAgain(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Synchronous(true)
		conn := connect(t, c.Node("pg1"))
		c.Node("pg2").SetReplayDelay(time.Second)
		c.Node("pg3").Cut()
		acknowledged := background(exec(conn, "write a"))
		time.AfterFunc(time.Second-1, func() { c.Node("pg2").SetReplayDelay(0) })
		time.AfterFunc(2*time.Second, func() { c.Node("pg3").Heal() })
		if err := <-acknowledged; err != nil {
			t.Fatal(err)
		}
	})
}

func TestSynchronousCommitThatIsEndedAcknowledgesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Synchronous(true)
		conn := connect(t, c.Node("pg1"))
		do(t, conn, "write a")
		c.Node("pg2").Promote() // pg3 follows it, and nobody pg1
		acknowledged := background(exec(conn, "write lost"))
		synctest.Wait()
		c.Node("pg1").Follow()
		// An error of the server's would say that it was undone.
		if _, said := errors.AsType[*pgconn.PgError](<-acknowledged); said {
			t.Error("the server says what became of it")
		}
		equal(t, "a survived", c.Survived("a"), true)
		_, found := c.Committed("lost")
		equal(t, "the other write is in a log", found, false)
	})
}

func TestPromoteAlone(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Node("pg2").Cut()
		c.Node("pg3").Cut()
		c.Node("pg2").PromoteAlone()
		c.Node("pg3").PromoteAlone()
		equal(t, "timeline of pg2", c.Node("pg2").State().Timeline, 2)
		equal(t, "timeline of pg3", c.Node("pg3").State().Timeline, 2)
	})
}

func TestCutOfOneWay(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		n := c.Node("pg1")
		conn := connect(t, n)
		do(t, conn, "write a")
		n.CutAnswers()
		second := background(exec(conn, "write b"))
		synctest.Wait()
		equal(t, "writes that the server took", len(n.Log()), 2)
		n.Heal()
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		n.CutRequests()
		third := background(exec(conn, "write c"))
		synctest.Wait()
		equal(t, "writes that the server took", len(n.Log()), 2)
		n.Heal()
		if err := <-third; err != nil {
			t.Fatal(err)
		}
		equal(t, "writes that the server took", len(n.Log()), 3)
	})
}

func TestSkewKeepsAnswersApart(t *testing.T) {
	bubble(t, func(t *testing.T, c *Cluster) {
		c.Skew(true)
		n := c.Node("pg1")
		a, b := connect(t, n), connect(t, n)
		n.Latency(time.Millisecond)
		answered := make(chan time.Time, 2)
		for _, conn := range []execer{a, b} {
			go func() {
				if err := exec(conn, "select 1")(); err != nil {
					t.Error(err)
				}
				answered <- time.Now()
			}()
		}
		if first, second := <-answered, <-answered; first.Equal(second) {
			t.Error("two answers at one instant")
		}
	})
}
