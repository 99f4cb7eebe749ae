package nodepool

import "github.com/jackc/pgx/v5"

// ExpectCommit forgets what the server said of earlier commits on a connection.
func ExpectCommit(c *pgx.Conn) {
	if s := socketOf(c); s != nil {
		s.unreplicated, s.committed = false, false
	}
}

// Unreplicated reports whether the server gave up to wait for a synchronous standby since ExpectCommit, and its node.
func Unreplicated(c *pgx.Conn) (node string, gaveUp bool) {
	if s := socketOf(c); s != nil && s.unreplicated {
		return s.pool.name, true
	}
	return "", false
}

// Committed reports whether the server has confirmed a COMMIT since ExpectCommit, and then sent an error, of which alone pgx tells.
func Committed(c *pgx.Conn) bool {
	s := socketOf(c)
	return s != nil && s.committed
}

// Written counts what was written to a connection so far, but for the farewell of a client that gives it up. It is false if somebody
// else's wrapper hides that.
func Written(c *pgx.Conn) (times uint64, known bool) {
	if s := socketOf(c); s != nil {
		return s.written.Load(), true
	}
	return 0, false
}

// HasEnded reports whether a connection was cut, or has ended by itself.
func HasEnded(c *pgx.Conn) bool {
	s := socketOf(c)
	return s != nil && (s.reason.Load() != nil || s.pool.hasReadEnded(s))
}
