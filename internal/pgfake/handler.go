package pgfake

import "strings"

// Handler answers a statement. It runs on the server's side, in the goroutine
// of the session and under no lock: it may read and change nodes and wait, for
// as long as it watches Session.Context. args holds the parameters of the
// extended protocol in text form, NULL as ""; the simple protocol has none.
//
// A nil Result is an empty one. An *Error is sent as it is, ErrHangUp ends the
// connection, any other error becomes XX000.
type Handler func(s *Session, args []string) (*Result, error)

// route is how one statement is answered.
type route struct {
	handler   Handler
	columns   []Column
	described bool // columns are known without running the handler
	anyTime   bool // also in a failed transaction
	empty     bool // an empty query
}

// Handle answers a statement whose text is sql, compared without surrounding
// space and final semicolons; an old handler of the same text is replaced, also
// for statements already prepared. Handlers come before the built-in
// statements, also for transaction control.
//
// columns describe the result to a client that prepares the statement, as pgx
// does by default. Without them the handler itself is asked, by a call with
// empty args on a Session that is Describing: declare columns if that call would
// fail or count.
func (c *Cluster) Handle(sql string, h Handler, columns ...Column) {
	defer c.lock()()
	c.exact[trimSQL(sql)] = &route{handler: h, columns: columns, described: len(columns) > 0}
}

// HandlePrefix is Handle for every statement that begins with prefix and has no
// handler of its own; the longest prefix wins.
func (c *Cluster) HandlePrefix(prefix string, h Handler, columns ...Column) {
	defer c.lock()()
	c.prefixes[strings.TrimLeft(prefix, " \n\t")] = &route{handler: h, columns: columns, described: len(columns) > 0}
}

// handles reports whether the trimmed text as a whole has a handler of its own.
func (c *Cluster) handles(text string) bool {
	defer c.lock()()
	return c.exact[text] != nil
}

// custom returns the registered route for the trimmed text, or nil.
func (c *Cluster) custom(text string) *route {
	defer c.lock()()
	if r, ok := c.exact[text]; ok {
		return r
	}
	var found *route
	longest := -1
	for prefix, r := range c.prefixes {
		if len(prefix) > longest && strings.HasPrefix(text, prefix) {
			found, longest = r, len(prefix)
		}
	}
	return found
}

// lookup returns the route of a trimmed statement, or a syntax error.
func (c *Cluster) lookup(text string) (*route, *Error) {
	if r := c.custom(text); r != nil {
		return r, nil
	}
	if r := builtin(text); r != nil {
		return r, nil
	}
	return nil, Errorf("42601", "syntax error: pgfake does not know %q", text)
}
