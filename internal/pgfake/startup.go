package pgfake

import (
	"bytes"

	"github.com/jackc/pgx/v5/pgproto3"
)

// startup goes from the first byte to ReadyForQuery and reports whether there
// is a session to serve.
func (s *Session) startup() bool {
	for {
		msg, err := s.backend.ReceiveStartupMessage()
		if err != nil {
			return false
		}
		switch msg := msg.(type) {
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := (serverEnd{s.link}).Write([]byte{'N'}); err != nil {
				return false
			}
		case *pgproto3.CancelRequest:
			s.node.cancelRequest(msg.ProcessID, msg.SecretKey)
			return false
		case *pgproto3.StartupMessage:
			s.params = msg.Parameters
			if msg.ProtocolVersion > pgproto3.ProtocolVersion30 {
				s.backend.Send(&pgproto3.NegotiateProtocolVersion{})
			}
			return s.login()
		}
	}
}

// cancelRequest cancels the running statement of a session, if the key is right.
func (n *Node) cancelRequest(pid uint32, secret []byte) {
	defer n.cluster.lock()()
	n.cancels++
	s, ok := n.sessions[pid]
	if ok && bytes.Equal(s.secret[:], secret) && s.cancelQuery != nil {
		s.cancelQuery(errCanceled)
	}
}

// login refuses, or greets the client and reports true.
func (s *Session) login() bool {
	if err := s.admission(); err != nil {
		return s.refuse(err)
	}
	if !s.authenticate() {
		return false
	}
	s.backend.Send(&pgproto3.AuthenticationOk{})
	for _, p := range s.greeting() {
		s.backend.Send(&pgproto3.ParameterStatus{Name: p[0], Value: p[1]})
	}
	s.backend.Send(&pgproto3.BackendKeyData{ProcessID: s.pid, SecretKey: s.secret[:]})
	s.setReady()
	return s.readyForQuery()
}

// admission returns why the server takes nobody in at the moment.
func (s *Session) admission() error {
	defer s.node.cluster.lock()()
	switch {
	case s.node.startingUp:
		return Fatalf("57P03", "the database system is starting up")
	case s.node.refusal != nil:
		return s.node.refusal
	}
	return nil
}

// refuse ends a login.
func (s *Session) refuse(err error) bool {
	unlock := s.node.cluster.lock()
	s.node.refused++
	unlock()
	return s.fail(err)
}

// authenticate asks for the cleartext password if the cluster wants one.
func (s *Session) authenticate() bool {
	if !s.node.cluster.wantsPassword() {
		return true
	}
	s.backend.Send(&pgproto3.AuthenticationCleartextPassword{})
	if s.backend.Flush() != nil || s.backend.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return false
	}
	msg, err := s.backend.Receive()
	if err != nil || !s.link.awaitThaw() {
		return false
	}
	if answer, ok := msg.(*pgproto3.PasswordMessage); !ok || answer.Password != password {
		return s.refuse(Fatalf("28P01", "password authentication failed for user %q", s.params["user"]))
	}
	return true
}

func (c *Cluster) wantsPassword() bool {
	defer c.lock()()
	return c.requirePassword
}

// greeting lists the parameters that are reported once; readyForQuery reports
// those that can change.
func (s *Session) greeting() [][2]string {
	s.begunReadOnly = s.givenReadOnly()
	s.defaultReadOnly = s.begunReadOnly
	return [][2]string{
		{"application_name", s.params["application_name"]},
		{"client_encoding", "UTF8"},
		{"DateStyle", "ISO, MDY"},
		{"integer_datetimes", "on"},
		{"is_superuser", "off"},
		{"server_encoding", "UTF8"},
		{"server_version", s.node.State().ServerVersion},
		{"session_authorization", s.params["user"]},
		{"standard_conforming_strings", "on"},
		{"TimeZone", "UTC"},
	}
}

// givenReadOnly is default_transaction_read_only as the client or the database
// gives it to a session that begins, nil if neither does.
func (s *Session) givenReadOnly() *bool {
	defer s.node.cluster.lock()()
	on := true
	switch v, ok := s.params["default_transaction_read_only"]; {
	case ok:
		on = isOn(v)
	case !s.node.databaseReadOnlyLocked():
		return nil
	}
	return &on
}

func (s *Session) setReady() {
	defer s.node.cluster.lock()()
	s.ready = true
}
