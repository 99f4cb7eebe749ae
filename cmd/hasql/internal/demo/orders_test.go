package demo

import (
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// press presses a button of the page, and returns the status of the answer.
func (r *running) press(action, node string) int {
	r.t.Helper()
	form := url.Values{"action": {action}, "node": {node}}
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.page+"/api/action", strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Hasql-Run", stateOf(r.t, r.page).Run)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func TestOperatorOnThePage(t *testing.T) {
	t.Parallel()
	if _, err := pgcluster.FindBinDir(); err != nil && os.Getenv("HASQL_REQUIRE_POSTGRES") == "" {
		t.Skip(err)
	}
	demo := start(t, Options{Hold: true, Runs: 1, Faults: Faults})
	offers := func(node, action string) func(dashboardState) bool {
		return func(s dashboardState) bool {
			for _, n := range s.Nodes {
				if n.Name == node {
					return slices.Contains(n.Actions, action)
				}
			}
			return slices.Contains(s.Actions, action)
		}
	}
	obeyed := func(action, node string) {
		t.Helper()
		if status := demo.press(action, node); status != http.StatusAccepted {
			t.Errorf("%s %s: %d", action, node, status)
		}
	}
	demo.until("the first writes", func(s dashboardState) bool { return s.Writes.Acknowledged > 100 && s.Reads.Answered > 100 })

	demo.until("a replica may be drained", offers("pg2", orderDrain))
	obeyed(orderDrain, "pg2")
	demo.until("it was drained", offers("pg2", orderUnban))
	for _, ask := range [][2]string{{orderDrain, "pg3"}, {orderDrain, "pg1"}, {orderUnban, "pg3"}, {orderResume, ""}, {orderPause, "pg1"}, {orderDrain, "pg9"}} {
		if status := demo.press(ask[0], ask[1]); status != http.StatusConflict {
			t.Errorf("%v: %d", ask, status)
		}
	}
	obeyed(orderUnban, "pg2")
	demo.until("it came back", offers("pg2", orderDrain))

	obeyed(orderPause, "")
	paused := demo.until("the pause", func(s dashboardState) bool { return s.Paused && offers("", orderResume)(s) })
	obeyed(orderResume, "")
	demo.until("writes went on", func(s dashboardState) bool {
		return !s.Paused && s.Writes.Acknowledged > paused.Writes.Acknowledged+100
	})
	demo.end()
}
