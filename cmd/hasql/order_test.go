package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/hasqlhttp"
)

// startService is a process that uses a cluster whose nodes are all down, and takes orders.
func startService(t *testing.T) (url string, pm *hasql.PoolManager) {
	t.Helper()
	pm, err := hasql.New(t.Context(), nobody)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pm.Close(context.Background()) })
	return serve(t, pm), pm
}

func serve(t *testing.T, pm *hasql.PoolManager) (url string) {
	t.Helper()
	admin, err := hasqlhttp.Admin(pm, secret+secret)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(admin)
	t.Cleanup(server.Close)
	return server.URL
}

func TestOrdersGoToEveryProcess(t *testing.T) {
	first, pm1 := startService(t)
	second, pm2 := startService(t)
	t.Setenv("HASQL_ADMIN_TOKEN", secret+secret)
	t.Setenv("HASQL_ADMIN_URL", first+", "+second)
	for _, test := range []struct{ order, said string }{
		{"pause --for 1h", "paused"},
		{"resume", ""},
		{"ban 127.0.0.1:1 --for 1h --reason disk", ""},
		{"drain 127.0.0.1:2 --timeout 5s --force", ""},
		{"unban 127.0.0.1:1", ""},
	} {
		args := strings.Fields(test.order)
		invoke(t, args...).expect(t, 0, first+": "+args[0]+": done\n"+second+": "+args[0]+": done\n", "")
		for i, pm := range []*hasql.PoolManager{pm1, pm2} {
			if pm.Snapshot().Paused() != (test.said == "paused") {
				t.Errorf("%s: process %d has paused: %v", test.order, i+1, pm.Snapshot().Paused())
			}
		}
	}
}

func TestPauseOfSomeProcessesIsNone(t *testing.T) {
	url, pm := startService(t)
	t.Setenv("HASQL_ADMIN_TOKEN", secret+secret)
	o := invoke(t, "pause", "--url", url, "--url", "http://127.0.0.1:1")
	o.expect(t, exitUnable, url+": pause: done\nhttp://127.0.0.1:1: pause: dial tcp 127.0.0.1:1", "pause: 1 of 2 processes obeyed")
	if pm.Snapshot().Paused() || !strings.Contains(o.stdout, url+": resume: done") {
		t.Errorf("it still pauses: %s", o.stdout)
	}
}

func TestOrderThatCannotBeGiven(t *testing.T) {
	url, _ := startService(t)
	elsewhere := httptest.NewServer(http.RedirectHandler(url, http.StatusTemporaryRedirect))
	defer elsewhere.Close()
	for name, test := range map[string]struct {
		args   string
		token  string
		status int
		stdout string
		stderr string
	}{
		"no URL":          {"resume", secret + secret, exitUnable, "", "no service is named"},
		"no token":        {"resume --url " + url, "", exitUnable, "", "HASQL_ADMIN_TOKEN is not set"},
		"a wrong token":   {"resume --url " + url, "another one", exitUnable, "must hold the token", "0 of 1 processes"},
		"no node":         {"ban --url " + url, secret + secret, exitUnable, "", "accepts 1 arg"},
		"an unknown node": {"ban pg9 --url " + url, secret + secret, exitNo, `there is no node "pg9"`, "0 of 1 processes"},
		"no duration":     {"pause --for soon --url " + url, secret + secret, exitUnable, `invalid duration "soon"`, "0 of 1 processes"},
		"no handler":      {"resume --url " + elsewhere.URL, secret + secret, exitUnable, "307 Temporary Redirect; is this the address", "0 of 1"},
		"no such URL":     {"resume --url http://app:" + secret + "@127.0.0.1:99999", secret + secret, exitUnable, "http://app:xxxxx@127.0.0.1:99999: resume: ", "0 of 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HASQL_ADMIN_TOKEN", test.token)
			invoke(t, strings.Fields(test.args)...).expect(t, test.status, test.stdout, test.stderr)
		})
	}
}

// A connection of the service is in use, so the time that the command gives is up before the master is idle.
func TestPauseThatTakesTooLong(t *testing.T) {
	cluster := useCluster(t)
	pm, err := hasql.New(t.Context(), cluster.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer pm.Close(context.Background())
	lent, err := pm.AcquireMaster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lent.Release()
	url := serve(t, pm)
	t.Setenv("HASQL_ADMIN_TOKEN", secret+secret)
	invoke(t, "pause", "--timeout", "10ms", "--url", url).
		expect(t, exitTimedOut, "1 connections to the master are still in use", "0 of 1 processes")
}
