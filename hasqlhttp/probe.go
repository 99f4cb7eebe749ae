package hasqlhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/human"
)

// Ready answers a readiness probe: 200 while there are at least so many masters and replicas, otherwise 503 with a line for
// each node. The counts have the same meaning as in [hasql.PoolManager.Ready]. The handler reports the current state and
// never waits. If there are too few nodes for the counts, it answers 500.
//
// An instance that is not ready gets no requests, and when the database is down no instance is ready. Ask only for nodes
// that the service cannot work without: Ready(pm, 0, 1) for a service that mostly reads.
func Ready(pm *hasql.PoolManager, masters, replicas int) http.Handler {
	return readOnly(func(w http.ResponseWriter, r *http.Request) {
		present, cancel := context.WithCancel(r.Context())
		cancel() // Ready checks the nodes before it waits; with an ended context it does not wait
		err := pm.Ready(present, masters, replicas)
		missing, ok := errors.AsType[*hasql.NoNodeError](err)
		switch {
		case err == nil:
			answer(w, http.StatusOK, "ready")
		case errors.Is(err, hasql.ErrClosed):
			answer(w, http.StatusServiceUnavailable, "not ready: closed")
		case ok:
			answer(w, http.StatusServiceUnavailable, explain(missing))
		default:
			answer(w, http.StatusInternalServerError, err.Error())
		}
	})
}

// Live answers a liveness probe: 200 until pm is closed, then 503. It does not depend on the state of the database, because
// a restart of the service would not repair the database.
func Live(pm *hasql.PoolManager) http.Handler {
	return readOnly(func(w http.ResponseWriter, _ *http.Request) {
		if pm.Snapshot().Closed() {
			answer(w, http.StatusServiceUnavailable, "closed")
			return
		}
		answer(w, http.StatusOK, "live")
	})
}

// explain returns what was wanted, what there is, and a line about each node.
func explain(e *hasql.NoNodeError) string {
	var b strings.Builder
	roles := make(map[hasql.Role]int)
	for _, n := range e.Nodes {
		roles[n.Role]++
	}
	fmt.Fprintf(&b, "not ready: no %s; there are %s and %s", e.Wanted,
		human.Count(roles[hasql.RoleMaster], "master"), human.Count(roles[hasql.RoleReplica], "replica"))
	for _, n := range e.Nodes {
		fmt.Fprintf(&b, "\n%s %s %s", n.Name, n.Status, n.Role)
		if n.Cause != nil {
			b.WriteString(": " + reason(n.Cause))
		}
	}
	return b.String()
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
