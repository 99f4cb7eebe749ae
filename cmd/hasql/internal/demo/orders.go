package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

// Orders of an operator to the application's PoolManager. Only the page's buttons give them.
const (
	orderDrain  = "drain"
	orderUnban  = "unban"
	orderPause  = "pause"
	orderResume = "resume"

	pauseTime  = 20 * time.Second // a pause ends by itself before an acquire of the application gives up
	orderLimit = 10 * time.Second // how long an order waits for connections in use
)

// orderFor returns the order that is possible now for a node, "" if there is none. For the name "" it is that for the
// cluster.
func orderFor(s *hasql.Snapshot, name string) string {
	n, known := s.Node(name)
	switch {
	case name == "" && s.Paused():
		return orderResume
	case name == "":
		return orderPause
	case known && n.Status == hasql.StatusBanned:
		return orderUnban
	case known && n.Role == hasql.RoleReplica && s.ReplicaCount() > 1:
		return orderDrain
	}
	return ""
}

// isOrder reports whether an action of the page is an order.
func isOrder(action string) bool {
	return action == orderDrain || action == orderUnban || action == orderPause || action == orderResume
}

// order begins an order and does not wait for its end. It calls done with the result.
func (s *session) order(order, node string, done func(error)) error {
	if orderFor(s.pm.Snapshot(), node) != order {
		return fmt.Errorf("%s %s: %w", order, node, dashboard.ErrRefused)
	}
	s.manager.begun.Go(func() {
		began := time.Now()
		err := s.obey(order, node)
		if err == nil {
			text := fmt.Sprintf("operator: %s, done after %s", strings.TrimSpace(order+" "+node), Millis(time.Since(began)))
			s.app.screen.event(began, eventRepair, text)
		}
		done(err)
	})
	return nil
}

func (s *session) obey(order, node string) error {
	ctx, cancel := context.WithTimeout(s.ctx, orderLimit)
	defer cancel()
	switch order {
	case orderDrain:
		return s.pm.Drain(ctx, node, hasql.BanOptions{Reason: "drained on the page"})
	case orderUnban:
		return s.pm.Unban(node)
	case orderPause:
		return s.pm.PauseFor(ctx, pauseTime)
	default:
		s.pm.Resume()
		return nil
	}
}
