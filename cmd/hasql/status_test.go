package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/hasqlhttp"
	"github.com/pghasql/hasql/internal/pgcluster"
)

func TestStatus(t *testing.T) {
	cluster := useCluster(t)
	o := invoke(t, "status")
	o.expect(t, 0, "1 master, 2 replicas; 3 of 3 nodes up\n", "")
	for i, line := range strings.Split(strings.TrimSpace(o.stdout), "\n")[3:] {
		words := strings.Fields(line)
		role := map[bool]string{true: "master", false: "replica"}[i == 0]
		if words[0] != cluster.Nodes()[i].Addr() || words[2] != role || words[3] != "up" {
			t.Errorf("node %d: %s", i, line)
		}
	}
	var s hasqlhttp.Status
	o = invoke(t, "status", "--json")
	if err := json.Unmarshal([]byte(o.stdout), &s); err != nil {
		t.Fatal(err)
	}
	if o.status != 0 || s.Masters != 1 || s.Replicas != 2 || *s.Nodes[0].Timeline != 1 || s.Nodes[1].LagBytes == nil {
		t.Errorf("as JSON: %+v", o)
	}
}

func TestStatusWithoutAMaster(t *testing.T) {
	invoke(t, "status", nobody).expect(t, exitNo, "no master, 0 replicas; 0 of 2 nodes up\n", "")
	invoke(t, "status", "--json", nobody).expect(t, exitNo, `"masters":0,`, "")
}

func TestWatchWritesEveryChange(t *testing.T) {
	useCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cmd := child(t, "status", "--watch", "--json", cluster.DSN())
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	documents := bufio.NewScanner(stdout)
	// until reads documents until one has the given numbers of masters and replicas, and returns it.
	until := func(masters, replicas int) (s hasqlhttp.Status) {
		t.Helper()
		for documents.Scan() {
			s = hasqlhttp.Status{}
			if err := json.Unmarshal(documents.Bytes(), &s); err != nil {
				t.Fatal(err)
			}
			if s.Masters == masters && s.Replicas == replicas {
				return s
			}
		}
		t.Fatalf("no document with %d masters and %d replicas: %v", masters, replicas, documents.Err())
		return s
	}
	until(1, 1)
	if err := cluster.Nodes()[0].Kill(); err != nil {
		t.Fatal(err)
	}
	until(0, 1)
	if err := cluster.Nodes()[1].Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if s := until(1, 0); s.Transitions[0].Node != cluster.Nodes()[1].Addr() || s.Transitions[0].Role != "master" {
		t.Errorf("the last transition is %+v", s.Transitions[0])
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for documents.Scan() { // read to the end, so that Wait may close the pipe
	}
	if got := exitStatus(t, cmd); got != 0 {
		t.Errorf("exit status %d", got)
	}
}
