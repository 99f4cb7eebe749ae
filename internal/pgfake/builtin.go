package pgfake

import (
	"strconv"
	"strings"
	"time"
)

// builtin returns the route of a statement that needs no handler, or nil.
func builtin(text string) *route {
	norm := normalize(text)
	if r, ok := constants[norm]; ok {
		return r
	}
	word, rest, _ := strings.Cut(norm, " ")
	if do, ok := txStatements[word]; ok {
		return &route{
			described: true,
			anyTime:   word == "commit" || word == "end" || word == "rollback" || word == "abort",
			handler:   func(s *Session, _ []string) (*Result, error) { return do(s, rest) },
		}
	}
	switch word {
	case "write":
		return writeRoute(text)
	case "set":
		return command(func(s *Session) (*Result, error) { return set(s, rest) })
	case "deallocate":
		return command(func(s *Session) (*Result, error) { return s.deallocate(rest) })
	}
	if seconds, ok := strings.CutPrefix(norm, "select pg_sleep("); ok {
		return sleepRoute(strings.TrimSuffix(seconds, ")"))
	}
	return nil
}

// constants answers statements that have no parts.
var constants = map[string]*route{
	"": {
		described: true, empty: true, anyTime: true,
		handler: func(*Session, []string) (*Result, error) { return nil, nil },
	},
	"select 1": value(Int4("?column?"), func(*Session) any { return 1 }),
	"read": {
		described: true,
		columns:   []Column{Text("node")},
		handler: func(s *Session, _ []string) (*Result, error) {
			return &Result{Rows: [][]any{{s.node.name}}}, s.Read()
		},
	},
	"select role": value(Text("role"), func(s *Session) any {
		if s.node.State().InRecovery {
			return "replica"
		}
		return "master"
	}),
	"select pg_is_in_recovery()": value(Bool("pg_is_in_recovery"), func(s *Session) any {
		return s.node.State().InRecovery
	}),
	"show transaction_read_only": value(Text("transaction_read_only"), func(s *Session) any {
		return onOff(s.tx.readOnly)
	}),
	"show default_transaction_read_only": value(Text("default_transaction_read_only"), func(s *Session) any {
		if s.defaultReadOnly != nil {
			return onOff(*s.defaultReadOnly)
		}
		return onOff(s.node.State().DefaultReadOnly)
	}),
	"discard all": command(func(s *Session) (*Result, error) {
		if s.tx.status != 'I' {
			return nil, Errorf("25001", "DISCARD ALL cannot run inside a transaction block")
		}
		clear(s.statements)
		s.defaultReadOnly = s.begunReadOnly
		return &Result{Tag: "DISCARD ALL"}, nil
	}),
}

// value is a statement that answers one row of one column.
func value(col Column, get func(s *Session) any) *route {
	return &route{
		described: true,
		columns:   []Column{col},
		handler: func(s *Session, _ []string) (*Result, error) {
			return &Result{Rows: [][]any{{get(s)}}}, nil
		},
	}
}

// command is a statement without rows.
func command(do func(s *Session) (*Result, error)) *route {
	return &route{
		described: true,
		handler:   func(s *Session, _ []string) (*Result, error) { return do(s) },
	}
}

// writeRoute is "write TOKEN", the token as it stands, quoted or $1.
func writeRoute(text string) *route {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return nil
	}
	token := fields[1]
	return &route{
		described: true,
		handler: func(s *Session, args []string) (*Result, error) {
			token := strings.Trim(token, "'")
			if token == "$1" && len(args) > 0 {
				token = args[0]
			}
			if err := s.Write(token); err != nil {
				return nil, err
			}
			return &Result{Tag: "INSERT 0 1"}, nil
		},
	}
}

func sleepRoute(arg string) *route {
	seconds, err := strconv.ParseFloat(arg, 64)
	if err != nil {
		return nil
	}
	return &route{
		described: true,
		columns:   []Column{Text("pg_sleep")},
		handler: func(s *Session, _ []string) (*Result, error) {
			err := s.Sleep(time.Duration(seconds * float64(time.Second)))
			return &Result{Rows: [][]any{{""}}}, err
		},
	}
}

// set accepts every SET and understands those about read-only transactions.
func set(s *Session, rest string) (*Result, error) {
	rest = strings.TrimPrefix(rest, "session ")
	rest = strings.ReplaceAll(rest, "=", " ")
	words := strings.Fields(rest)
	switch {
	case strings.HasPrefix(rest, "transaction "):
		if err := s.setReadOnly(rest); err != nil {
			return nil, err
		}
	case strings.HasPrefix(rest, "characteristics as transaction read "):
		on := strings.HasSuffix(rest, " only")
		s.defaultReadOnly = &on
	case len(words) > 1 && words[0] == "default_transaction_read_only":
		on := isOn(words[len(words)-1])
		s.defaultReadOnly = &on
	}
	return &Result{Tag: "SET"}, nil
}

// isOn reads a boolean setting.
func isOn(v string) bool {
	switch strings.ToLower(strings.Trim(v, "'")) {
	case "on", "true", "yes", "1":
		return true
	}
	return false
}
