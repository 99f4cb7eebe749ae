package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// socketNode is a server under the name that a manager has for its socket.
type socketNode struct {
	*pgcluster.Node
	host string
}

func (n socketNode) Addr() string { return net.JoinHostPort(n.host, strconv.Itoa(n.Port())) }

func TestSocketsOfBothKindsThroughAFailover(t *testing.T) {
	dir, err := os.MkdirTemp("", "hasql") // a path of at most 107 bytes, which the server's account may enter
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	for name, host := range map[string]string{
		"directory": dir,
		"abstract":  fmt.Sprintf("@hasql test/%d:x", os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "abstract" && runtime.GOOS != "linux" {
				t.Skip("Linux alone has them")
			}
			ctx := testContext(t)
			cluster := startCluster(t, pgcluster.Options{
				Replicas:   1,
				HBA:        []string{"local all all trust"},
				Parameters: map[string]string{"unix_socket_directories": `"` + host + `"`},
			})
			master, replica := socketNode{cluster.Nodes()[0], host}, socketNode{cluster.Nodes()[1], host}
			dsn := fmt.Sprintf("host='%[1]s,%[1]s' port=%d,%d user=postgres sslmode=verify-full", host, master.Port(), replica.Port())
			m := open(t, dsn, budget(10*time.Second))
			must(t, m.Ready(ctx, 1, 1))
			if scan[bool](t, m.Master(), "select inet_server_addr() is not null") {
				t.Error("connected over TCP")
			}

			// A cancel request finds its way too: the statement is over long before its time.
			admin := connect(t, master)
			const sleeping = "select exists (select from pg_stat_activity where query = 'select pg_sleep(1000)' and state = 'active')"
			canceled, cancel := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() {
				_, err := m.Master().Exec(canceled, "select pg_sleep(1000)")
				ended <- err
			}()
			for !scan[bool](t, admin, sleeping) {
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("a statement whose context ended: %v", err)
			}
			for scan[bool](t, admin, sleeping) {
			}

			must(t, master.Kill())
			m.awaitStatus(master, hasql.StatusDown)
			if s := state(m.Snapshot(), master); !strings.Contains(s.String(), master.Addr()+" down: ") {
				t.Errorf("what is told of the node: %s", s.String())
			}
			must(t, replica.Promote(ctx))
			_, err := m.Master().Exec(ctx, "create table t ()")
			must(t, err)
			must(t, master.Rejoin(ctx, replica.Node))
			must(t, m.Ready(ctx, 1, 1))
		})
	}
}
