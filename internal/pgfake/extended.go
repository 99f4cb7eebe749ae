package pgfake

import (
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"
)

// statement is a prepared statement. Its route is looked up at every execution,
// so that a handler can be replaced under it.
type statement struct {
	text      string
	params    []uint32 // OIDs; 0 where the client said nothing
	empty     bool
	columns   []Column
	described bool // columns are known to the client
}

// portal is a statement with its arguments.
type portal struct {
	statement *statement
	args      []string
	formats   []int16
	result    *Result // of a run by Describe, for the Execute that follows
}

// extended works on one message of the extended protocol.
func (s *Session) extended(msg pgproto3.FrontendMessage) error {
	switch msg := msg.(type) {
	case *pgproto3.Parse:
		return s.parse(msg)
	case *pgproto3.Bind:
		return s.bind(msg)
	case *pgproto3.Describe:
		if msg.ObjectType == 'S' {
			return s.describeStatement(msg.Name)
		}
		return s.describePortal(msg.Name)
	case *pgproto3.Execute:
		return s.executePortal(msg.Portal)
	case *pgproto3.Close:
		if msg.ObjectType == 'S' {
			delete(s.statements, msg.Name)
		} else {
			delete(s.portals, msg.Name)
		}
		s.backend.Send(&pgproto3.CloseComplete{})
		return nil
	}
	return Fatalf("08P01", "pgfake does not know message %T", msg)
}

// sync ends a pipeline: it commits what ran outside a block.
func (s *Session) sync() bool {
	s.skipping = false
	s.endImplicit()
	clear(s.portals)
	return s.readyForQuery()
}

func (s *Session) parse(msg *pgproto3.Parse) error {
	text := trimSQL(msg.Query)
	if _, ok := s.statements[msg.Name]; ok && msg.Name != "" {
		return Errorf("42P05", "prepared statement %q already exists", msg.Name)
	}
	r, unknown := s.node.cluster.lookup(text)
	if unknown != nil {
		return unknown
	}
	if err := s.blocked(r); err != nil {
		return err
	}
	st := &statement{text: text, empty: r.empty, params: make([]uint32, parameters(text))}
	copy(st.params, msg.ParameterOIDs)
	s.statements[msg.Name] = st
	s.backend.Send(&pgproto3.ParseComplete{})
	return nil
}

func (s *Session) bind(msg *pgproto3.Bind) error {
	st, ok := s.statements[msg.PreparedStatement]
	if !ok {
		return Errorf("26000", "prepared statement %q does not exist", msg.PreparedStatement)
	}
	if len(msg.Parameters) != len(st.params) {
		return Errorf("08P01", "bind message supplies %d parameters, but prepared statement %q requires %d",
			len(msg.Parameters), msg.PreparedStatement, len(st.params))
	}
	p := &portal{statement: st, formats: slices.Clone(msg.ResultFormatCodes)}
	for i, v := range msg.Parameters {
		arg, err := decode(v, st.params[i], formatOf(msg.ParameterFormatCodes, i))
		if err != nil {
			return err
		}
		p.args = append(p.args, arg)
	}
	s.portals[msg.DestinationPortal] = p
	s.backend.Send(&pgproto3.BindComplete{})
	return nil
}

// describeStatement tells the columns before there is a result; see Handle for
// what it does when they were not declared.
func (s *Session) describeStatement(name string) error {
	st, ok := s.statements[name]
	if !ok {
		return Errorf("26000", "prepared statement %q does not exist", name)
	}
	r, unknown := s.node.cluster.lookup(st.text)
	if unknown != nil {
		return unknown
	}
	st.columns = r.columns
	if !r.described {
		s.begin()
		s.describing = true
		res, err := s.run(r, make([]string, len(st.params)))
		s.describing = false
		if err != nil {
			return err
		}
		st.columns = r.complete(res, st.text).Columns
	}
	st.described = true
	s.backend.Send(&pgproto3.ParameterDescription{ParameterOIDs: st.params})
	s.sendDescription(st.columns, nil)
	return nil
}

// describePortal runs the statement, since only the result knows its columns.
func (s *Session) describePortal(name string) error {
	p, err := s.portal(name)
	if err != nil {
		return err
	}
	if err := s.runPortal(p); err != nil {
		return err
	}
	s.sendDescription(p.result.Columns, p.formats)
	return nil
}

func (s *Session) executePortal(name string) error {
	p, err := s.portal(name)
	if err != nil {
		return err
	}
	if err := s.runPortal(p); err != nil {
		return err
	}
	res := p.result
	p.result = nil
	if p.statement.empty {
		s.backend.Send(&pgproto3.EmptyQueryResponse{})
		return nil
	}
	rows, err := res.encode(p.formats)
	if err != nil {
		return err
	}
	s.sendRows(rows, res.Tag)
	if res.Then != nil {
		return res.Then
	}
	return nil
}

func (s *Session) portal(name string) (*portal, error) {
	p, ok := s.portals[name]
	if !ok {
		return nil, Errorf("34000", "portal %q does not exist", name)
	}
	return p, nil
}

// runPortal runs the statement unless Describe has.
func (s *Session) runPortal(p *portal) error {
	if p.result != nil {
		return nil
	}
	res, err := s.execute(p.statement.text, p.args)
	if err != nil {
		return err
	}
	if p.statement.described && !slices.Equal(p.statement.columns, res.Columns) {
		return Errorf("0A000", "cached plan must not change result type")
	}
	p.result = res
	return nil
}

func (s *Session) sendDescription(columns []Column, formats []int16) {
	if len(columns) == 0 {
		s.backend.Send(&pgproto3.NoData{})
		return
	}
	s.backend.Send(rowDescription(columns, formats))
}

// deallocate forgets one prepared statement, or all.
func (s *Session) deallocate(name string) (*Result, error) {
	if name == "all" {
		clear(s.statements)
		return &Result{Tag: "DEALLOCATE ALL"}, nil
	}
	if _, ok := s.statements[name]; !ok {
		return nil, Errorf("26000", "prepared statement %q does not exist", name)
	}
	delete(s.statements, name)
	return &Result{Tag: "DEALLOCATE"}, nil
}
