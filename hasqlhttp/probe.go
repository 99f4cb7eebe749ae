package hasqlhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pghasql/hasql"
)

// Ready answers 200 while there are at least so many masters and replicas, which mean what they mean to
// [hasql.PoolManager.Ready], and 503 with a line for each node otherwise: a readiness probe. It tells the present and never
// waits. Counts that can't be met answer 500.
//
// An instance that is not ready gets no requests, and when the database is away that holds for all of them. Ask for no
// more than the service can't do without: Ready(pm, 0, 1) for one that mostly reads.
func Ready(pm *hasql.PoolManager, masters, replicas int) http.Handler {
	return readOnly(func(w http.ResponseWriter, r *http.Request) {
		present, cancel := context.WithCancel(r.Context())
		cancel() // Ready looks before it waits, and does not wait with a context that has ended
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

// Live answers 200 until pm is closed, then 503: a liveness probe. The state of the database plays no part, as starting
// a service anew does not mend that.
func Live(pm *hasql.PoolManager) http.Handler {
	return readOnly(func(w http.ResponseWriter, _ *http.Request) {
		if isClosed(pm) {
			answer(w, http.StatusServiceUnavailable, "closed")
			return
		}
		answer(w, http.StatusOK, "live")
	})
}

// explain says what is missing and what each node looks like.
func explain(e *hasql.NoNodeError) string {
	var b strings.Builder
	roles := make(map[hasql.Role]int)
	for _, n := range e.Nodes {
		roles[n.Role]++
	}
	fmt.Fprintf(&b, "not ready: wanted %s, there are %d and %d", e.Wanted, roles[hasql.RoleMaster], roles[hasql.RoleReplica])
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
