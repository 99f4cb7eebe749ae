package patroni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// ErrMissing is in the chain of [Start]'s error if Patroni or etcd is not installed. A test may skip on it.
var ErrMissing = errors.New("patroni: not installed (Debian, Ubuntu: apt-get install patroni etcd-server python3-etcd)")

// Options configure the cluster that [Start] makes.
type Options struct {
	// Members is the number of nodes, at least 2: one of them is the synchronous standby.
	Members int

	// Logf logs each step, as [testing.T.Logf] does. The default is nil: nothing is logged.
	Logf func(format string, args ...any)
}

// Cluster is an etcd and the members that elect their leader through it.
type Cluster struct {
	opts     Options
	programs programs
	box      *pgcluster.Sandbox
	etcd     etcd
	members  []*Member
	made     int // how many members were ever made
}

// programs are the paths of the programs.
type programs struct{ patroni, etcd, postgres string }

func findPrograms() (p programs, err error) {
	if p.postgres, err = pgcluster.FindBinDir(); err != nil {
		return p, err
	}
	var err1, err2 error
	p.patroni, err1 = pgcluster.FindProgram("patroni")
	p.etcd, err2 = pgcluster.FindProgram("etcd")
	if err := errors.Join(err1, err2); err != nil {
		return p, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return p, nil
}

// Start makes a cluster and waits until it is healthy, see [Cluster.Healthy]. That takes about five seconds. [Cluster.Close]
// ends the cluster; after an error there is nothing to close.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	began := time.Now()
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	box, err := pgcluster.NewSandbox()
	if err != nil {
		return nil, err
	}
	c := &Cluster{opts: opts, programs: programs, box: box}
	if err := c.launch(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.logf("%d members in %s after %v", len(c.members), box.Dir(), time.Since(began).Round(time.Millisecond))
	return c, nil
}

func (c *Cluster) launch(ctx context.Context) (err error) {
	if c.etcd, err = newEtcd(c); err != nil {
		return err
	}
	if err := c.etcd.start(ctx); err != nil {
		return err
	}
	for range c.opts.Members {
		if _, err := c.add(); err != nil {
			return err
		}
	}
	return c.Healthy(ctx)
}

// add makes one more member and starts it.
func (c *Cluster) add() (*Member, error) {
	c.made++
	m, err := newMember(c, fmt.Sprintf("n%d", c.made))
	if err != nil {
		return nil, err
	}
	c.members = append(c.members, m)
	return m, m.start()
}

// Add makes one more member, and returns when the cluster is healthy with it.
func (c *Cluster) Add(ctx context.Context) (*Member, error) {
	m, err := c.add()
	if err != nil {
		return nil, err
	}
	return m, c.Healthy(ctx)
}

// Remove kills a member, which the cluster then does without, and returns when that is healthy. The member must not be the
// leader.
func (c *Cluster) Remove(ctx context.Context, m *Member) error {
	if err := m.Kill(ctx); err != nil {
		return err
	}
	c.members = slices.DeleteFunc(c.members, func(other *Member) bool { return other == m })
	return c.Healthy(ctx)
}

// Close ends every process of the cluster and removes its folder.
func (c *Cluster) Close() error { return c.box.Close() }

// Members returns all members, whether they run or not.
func (c *Cluster) Members() []*Member { return c.members }

// DSN returns the URL of the whole cluster.
func (c *Cluster) DSN() string {
	addrs := make([]string, len(c.members))
	for i, m := range c.members {
		addrs[i] = m.Addr()
	}
	return dsn(strings.Join(addrs, ","))
}

func dsn(hosts string) string { return "postgres://postgres@" + hosts + "/postgres?sslmode=disable" }

// Leader waits for a leader whose PostgreSQL is out of recovery, and returns it.
func (c *Cluster) Leader(ctx context.Context) (leader *Member, err error) {
	err = c.poll(ctx, "a leader", func() bool {
		leader = c.leader(ctx)
		return leader != nil
	})
	return leader, err
}

func (c *Cluster) leader(ctx context.Context) *Member {
	for _, m := range c.members {
		if status := m.status(ctx); status.leads() {
			return m
		}
	}
	return nil
}

// Synchronous waits for the synchronous standby, which has every acknowledged write, and returns it. Patroni promotes no other
// standby.
func (c *Cluster) Synchronous(ctx context.Context) (standby *Member, err error) {
	err = c.poll(ctx, "a synchronous standby", func() bool {
		standby = c.synchronous(ctx)
		return standby != nil
	})
	return standby, err
}

func (c *Cluster) synchronous(ctx context.Context) *Member {
	for _, m := range c.members {
		if m.status(ctx).Synchronous {
			return m
		}
	}
	return nil
}

// Healthy waits until there is a leader, all other members stream from it, and one of them is synchronous.
func (c *Cluster) Healthy(ctx context.Context) error {
	return c.poll(ctx, "health", func() bool {
		leader := c.leader(ctx)
		return leader != nil && leader.status(ctx).streaming() == len(c.members)-1 && c.synchronous(ctx) != nil
	})
}

// Switchover asks Patroni to make another member the leader and returns when Patroni reports success. The other member must be
// the synchronous standby.
func (c *Cluster) Switchover(ctx context.Context, from, to *Member) error {
	return from.post(ctx, "/switchover", map[string]string{"leader": from.name, "candidate": to.name})
}

// ScheduleSwitchover asks for a switchover at a later time, and does not wait for it.
func (c *Cluster) ScheduleSwitchover(ctx context.Context, from, to *Member, at time.Time) error {
	return from.post(ctx, "/switchover", map[string]string{"leader": from.name, "candidate": to.name, "scheduled_at": at.Format(time.RFC3339Nano)})
}

// Pause puts Patroni into maintenance mode, in which it promotes no member. It returns when every running member knows.
func (c *Cluster) Pause(ctx context.Context) error { return c.setPause(ctx, true) }

// Resume ends Pause.
func (c *Cluster) Resume(ctx context.Context) error { return c.setPause(ctx, false) }

func (c *Cluster) setPause(ctx context.Context, pause bool) error {
	running := c.running()
	if len(running) == 0 {
		return errors.New("patroni: no member runs")
	}
	if err := running[0].patch(ctx, "/config", map[string]bool{"pause": pause}); err != nil {
		return err
	}
	return c.pollAll(ctx, fmt.Sprintf("pause to be %v", pause), func(m *Member) bool { return m.status(ctx).Pause == pause })
}

// Leaderless waits until every running member knows that the leader's lock has expired and there is no leader.
func (c *Cluster) Leaderless(ctx context.Context) error {
	return c.pollAll(ctx, "the leader's lock to expire", func(m *Member) bool { return m.status(ctx).Unlocked })
}

// NextRound waits until every running member has run its loop at least once from beginning to end, with etcd available. So
// Patroni has reacted to the current state of the cluster.
func (c *Cluster) NextRound(ctx context.Context) error {
	seen := make(map[*Member]int64)
	for _, m := range c.running() {
		seen[m] = m.status(ctx).LastSeen
	}
	// The time has a resolution of one second. The first change may come from a round that had already begun.
	return c.pollAll(ctx, "Patroni's next round", func(m *Member) bool { return m.status(ctx).LastSeen >= seen[m]+2 })
}

// RestartEtcd kills etcd, starts it again with its data, and returns when it answers.
func (c *Cluster) RestartEtcd(ctx context.Context) error {
	if err := c.box.Kill(ctx, c.etcd.name); err != nil {
		return err
	}
	return c.etcd.start(ctx)
}

func (c *Cluster) logf(format string, args ...any) {
	if c.opts.Logf != nil {
		c.opts.Logf("patroni: "+format, args...)
	}
}

// Poll calls done repeatedly until it returns true or ctx ends. what names in the error what was waited for.
func (c *Cluster) Poll(ctx context.Context, what string, done func() bool) error {
	return c.poll(ctx, what, done)
}

// poll calls done repeatedly until it returns true. Patroni sends no notifications, and its loop runs once per second.
func (c *Cluster) poll(ctx context.Context, what string, done func() bool) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("patroni: waited in vain for %s: %w%s", what, context.Cause(ctx), c.logs())
		}
	}
	return nil
}

// pollAll is poll for a condition on every running member.
func (c *Cluster) pollAll(ctx context.Context, what string, done func(*Member) bool) error {
	return c.poll(ctx, what, func() bool {
		return !slices.ContainsFunc(c.running(), func(m *Member) bool { return !done(m) })
	})
}

// running returns the members whose Patroni process runs.
func (c *Cluster) running() []*Member {
	return slices.DeleteFunc(slices.Clone(c.members), func(m *Member) bool { return !m.running() })
}

// logs returns the end of every program's log.
func (c *Cluster) logs() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s:\n%s", c.etcd.name, c.box.Log(c.etcd.name))
	for _, m := range c.members {
		fmt.Fprintf(&b, "\n%s:\n%s", m.name, c.box.Log(m.name))
	}
	return b.String()
}
