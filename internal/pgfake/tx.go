package pgfake

import "strings"

// transaction is the state of a session's current transaction. Outside a block
// every simple query, and everything up to a Sync, is one of its own.
type transaction struct {
	status     byte // as in ReadyForQuery: I, T, E
	running    bool // begun, by a block or by a first statement
	readOnly   bool
	writes     []string
	savepoints []savepoint
}

// savepoint remembers how much was written before it.
type savepoint struct {
	name   string
	writes int
}

// fail is an error in the transaction: a block waits for its end, anything else
// is rolled back.
func (t *transaction) fail() {
	if t.status == 'I' {
		*t = transaction{status: 'I'}
		return
	}
	t.status = 'E'
}

// begin starts a transaction unless one runs. Like PostgreSQL it fixes read-only
// at this moment.
func (s *Session) begin() {
	if s.tx.running {
		return
	}
	s.tx.running = true
	s.tx.readOnly = s.readOnlyByDefault()
}

// readOnlyByDefault is transaction_read_only of a transaction begun now.
func (s *Session) readOnlyByDefault() bool {
	defer s.node.cluster.lock()()
	if s.node.inRecovery {
		return true
	}
	if s.defaultReadOnly != nil {
		return *s.defaultReadOnly
	}
	return s.node.defaultReadOnly
}

// endImplicit commits what ran outside a transaction block.
func (s *Session) endImplicit() {
	if s.tx.status == 'I' && s.tx.running {
		s.commit()
	}
}

// commit puts the writes into the node's log, unless a fault was faster, and
// ends the transaction.
func (s *Session) commit() {
	writes := s.tx.writes
	s.tx = transaction{status: 'I'}
	if len(writes) == 0 || !s.link.awaitThaw() {
		return
	}
	if id, synchronous := s.log(writes); synchronous {
		s.awaitReplica(id)
	}
}

// log appends writes to the node's log, unless the session has been ended. It
// returns the id of the last record, and whether a replica must have it too.
func (s *Session) log(writes []string) (id uint64, synchronous bool) {
	defer s.node.cluster.lock()()
	if s.gone {
		return 0, false
	}
	for _, token := range writes {
		s.node.appendLocked(token, s.node.lsn+WriteSize)
	}
	s.committed = true
	return s.node.cluster.lastRecord, s.node.cluster.synchronous
}

// txStatements maps the first word of a transaction statement to what it does
// with the rest.
var txStatements = map[string]func(s *Session, rest string) (*Result, error){
	"begin":     beginBlock,
	"start":     beginBlock,
	"commit":    commitBlock,
	"end":       commitBlock,
	"rollback":  rollbackBlock,
	"abort":     rollbackBlock,
	"savepoint": setSavepoint,
	"release":   releaseSavepoint,
}

func beginBlock(s *Session, rest string) (*Result, error) {
	if s.tx.status != 'I' {
		s.Notice("25001", "there is already a transaction in progress")
		return &Result{Tag: "BEGIN"}, nil
	}
	if err := s.setReadOnly(rest); err != nil {
		return nil, err
	}
	s.tx.status = 'T'
	return &Result{Tag: "BEGIN"}, nil
}

// setReadOnly applies the access mode among transaction modes, if there is one.
func (s *Session) setReadOnly(modes string) error {
	switch {
	case strings.Contains(modes, "read only"):
		s.tx.readOnly = true
	case strings.Contains(modes, "read write"):
		if s.node.State().InRecovery {
			return Errorf("0A000", "cannot set transaction read-write mode during recovery")
		}
		s.tx.readOnly = false
	}
	return nil
}

func commitBlock(s *Session, _ string) (*Result, error) {
	switch s.tx.status {
	case 'E':
		s.tx = transaction{status: 'I'}
		return &Result{Tag: "ROLLBACK"}, nil
	case 'I':
		s.Notice("25P01", "there is no transaction in progress")
	}
	s.commit()
	return &Result{Tag: "COMMIT"}, nil
}

func rollbackBlock(s *Session, rest string) (*Result, error) {
	if name, ok := strings.CutPrefix(rest, "to "); ok {
		return rollbackTo(s, strings.TrimPrefix(name, "savepoint "))
	}
	if s.tx.status == 'I' {
		s.Notice("25P01", "there is no transaction in progress")
	}
	s.tx = transaction{status: 'I'}
	return &Result{Tag: "ROLLBACK"}, nil
}

func setSavepoint(s *Session, name string) (*Result, error) {
	if s.tx.status == 'I' {
		return nil, Errorf("25P01", "SAVEPOINT can only be used in transaction blocks")
	}
	s.tx.savepoints = append(s.tx.savepoints, savepoint{name, len(s.tx.writes)})
	return &Result{Tag: "SAVEPOINT"}, nil
}

func releaseSavepoint(s *Session, name string) (*Result, error) {
	i, err := s.findSavepoint(strings.TrimPrefix(name, "savepoint "))
	if err != nil {
		return nil, err
	}
	s.tx.savepoints = s.tx.savepoints[:i]
	return &Result{Tag: "RELEASE"}, nil
}

func rollbackTo(s *Session, name string) (*Result, error) {
	i, err := s.findSavepoint(name)
	if err != nil {
		return nil, err
	}
	s.tx.writes = s.tx.writes[:s.tx.savepoints[i].writes]
	s.tx.savepoints = s.tx.savepoints[:i+1]
	s.tx.status = 'T'
	return &Result{Tag: "ROLLBACK"}, nil
}

func (s *Session) findSavepoint(name string) (int, error) {
	for i := len(s.tx.savepoints) - 1; i >= 0; i-- {
		if s.tx.savepoints[i].name == name {
			return i, nil
		}
	}
	return 0, Errorf("3B001", "savepoint %q does not exist", name)
}
