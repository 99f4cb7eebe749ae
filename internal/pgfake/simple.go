package pgfake

import (
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// simpleQuery answers one Query message, which is one transaction unless its
// statements say otherwise, and reports whether the session goes on.
func (s *Session) simpleQuery(sql string) bool {
	s.skipping = false
	statements := splitSQL(sql)
	if whole := trimSQL(sql); s.node.cluster.handles(whole) {
		statements = []string{whole}
	}
	if len(statements) == 0 {
		s.count(trimSQL(sql))
		s.backend.Send(&pgproto3.EmptyQueryResponse{})
	}
	for _, text := range statements {
		if err := s.simpleStatement(text); err != nil {
			if !s.fail(err) {
				return false
			}
			break
		}
	}
	s.endImplicit()
	return s.readyForQuery()
}

// simpleStatement answers one statement of a Query message.
func (s *Session) simpleStatement(text string) error {
	res, err := s.execute(text, nil)
	if err != nil {
		return err
	}
	rows, err := res.encode(nil)
	if err != nil {
		return err
	}
	if len(res.Columns) > 0 {
		s.backend.Send(rowDescription(res.Columns, nil))
	}
	s.sendRows(rows, res.Tag)
	if res.Then != nil {
		s.endImplicit()
		return res.Then
	}
	return nil
}

// sendRows ends a statement that succeeded.
func (s *Session) sendRows(rows [][][]byte, tag string) {
	for _, row := range rows {
		s.backend.Send(&pgproto3.DataRow{Values: row})
	}
	s.backend.Send(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
}

// execute runs one statement, in a transaction of its own if there is none. The
// Result is complete: with the columns and the tag that go to the client.
func (s *Session) execute(text string, args []string) (*Result, error) {
	if !s.link.awaitThaw() {
		return nil, ErrHangUp
	}
	s.count(text)
	r, unknown := s.node.cluster.lookup(text)
	if unknown != nil {
		return nil, unknown
	}
	if err := s.blocked(r); err != nil {
		return nil, err
	}
	s.begin()
	res, err := s.run(r, args)
	if err != nil {
		return nil, err
	}
	return r.complete(res, text), nil
}

// blocked returns the error of a statement in a failed transaction.
func (s *Session) blocked(r *route) error {
	if s.tx.status != 'E' || r.anyTime {
		return nil
	}
	return Errorf("25P02",
		"current transaction is aborted, commands ignored until end of transaction block")
}

func (s *Session) count(text string) {
	defer s.node.cluster.lock()()
	s.node.queries[text]++
}

// complete fills in what the handler left out, in a copy.
func (r *route) complete(res *Result, text string) *Result {
	if res == nil {
		res = &Result{}
	}
	full := *res
	if len(full.Columns) == 0 {
		full.Columns = r.columns
	}
	if full.Tag == "" {
		full.Tag = defaultTag(&full, text)
	}
	return &full
}

// defaultTag is the command tag of a Result without one.
func defaultTag(res *Result, text string) string {
	if len(res.Columns) > 0 {
		return "SELECT " + strconv.Itoa(len(res.Rows))
	}
	word, _, _ := strings.Cut(normalize(text), " ")
	return strings.ToUpper(word)
}
