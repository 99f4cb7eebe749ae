package patroni

import (
	"context"
	"fmt"
	"net/http"
)

// etcd is the store through which the members elect their leader.
type etcd struct {
	cluster *Cluster
	name    string
	client  string // host:port
	peer    string
}

func newEtcd(c *Cluster) (etcd, error) {
	client, err := c.box.Reserve()
	if err != nil {
		return etcd{}, err
	}
	peer, err := c.box.Reserve()
	if err != nil {
		return etcd{}, err
	}
	return etcd{cluster: c, name: "etcd", client: local(client), peer: local(peer)}, nil
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// start starts etcd and waits until it answers.
func (e etcd) start(ctx context.Context) error {
	client, peer := "http://"+e.client, "http://"+e.peer
	process, err := e.cluster.box.Start(e.name, e.cluster.programs.etcd,
		"--name", e.name, "--data-dir", "data",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", e.name+"="+peer,
		"--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync")
	if err != nil {
		return err
	}
	return e.cluster.poll(ctx, "etcd", func() bool {
		select {
		case <-process.Exited():
			return false
		default:
		}
		status, _, err := request(ctx, http.MethodGet, client+"/health", nil)
		return err == nil && status == http.StatusOK
	})
}
