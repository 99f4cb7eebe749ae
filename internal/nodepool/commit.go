package nodepool

import "github.com/jackc/pgx/v5"

// ExpectCommit forgets what the server said of earlier commits on a connection.
func ExpectCommit(c *pgx.Conn) {
	if s := socketOf(c); s != nil {
		s.unreplicated, s.committed = false, false
	}
}

// Unreplicated reports whether the server gave up waiting for a synchronous standby since ExpectCommit, and the name of its node.
func Unreplicated(c *pgx.Conn) (node string, gaveUp bool) {
	if s := socketOf(c); s != nil && s.unreplicated {
		return s.pool.name, true
	}
	return "", false
}

// Committed reports whether the server has confirmed a COMMIT since ExpectCommit and then sent an error. pgx returns only the error.
func Committed(c *pgx.Conn) bool {
	s := socketOf(c)
	return s != nil && s.committed
}

// Written returns how many writes there were to a connection so far, without the message by which a client ends it. known is false
// if a wrapper of the user hides the writes.
func Written(c *pgx.Conn) (times uint64, known bool) {
	if s := socketOf(c); s != nil {
		return s.written.Load(), true
	}
	return 0, false
}
