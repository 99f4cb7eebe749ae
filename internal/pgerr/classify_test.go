package pgerr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// TestErrorsHaveTheirMeaning names the rules that hold for an error, and no others.
func TestErrorsHaveTheirMeaning(t *testing.T) {
	rules := map[string]func(error) bool{
		"no server":         IsNoServer,
		"end":               IsConnectionEnd,
		"silence":           IsSilence,
		"login refusal":     IsLoginRefusal,
		"statement refusal": IsStatementRefusal,
		"fatal":             func(err error) bool { return IsFatal(err) },
		"ordered":           func(err error) bool { return IsFatal(err, CrashShutdown, AdminShutdown) },
	}
	dial := func(network string, err error) error {
		return &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", err)}
	}
	server := func(severity, code string) error {
		return &pgconn.PgError{SeverityUnlocalized: severity, Code: code}
	}
	for _, test := range []struct {
		name string
		err  error
		want string // the rules, in the order of the alphabet
	}{
		{"none", nil, ""},
		{"another one", errors.New("x"), ""},
		{"connection refused", dial("tcp", syscall.ECONNREFUSED), "no server, silence"},
		{"no socket file", dial("unix", syscall.ENOENT), "no server, silence"},
		{"no route", dial("tcp", syscall.EHOSTUNREACH), "silence"},
		{"reset", dial("tcp", syscall.ECONNRESET), "end, no server"},
		{"broken pipe", dial("tcp", syscall.EPIPE), "end, no server"},
		{"end of file", io.EOF, "end, no server"},
		{"end in the middle", io.ErrUnexpectedEOF, "end, no server"},
		{"unknown name", &net.DNSError{Err: "no such host", IsNotFound: true}, "silence"},
		{"time-out", context.DeadlineExceeded, "silence"},
		{"cancelled", context.Canceled, "silence"},
		{"alert of TLS", &net.OpError{Op: "remote error", Err: errors.New("bad certificate")}, ""},
		{"certificate not trusted", &RefusalError{errors.New("x509")}, "login refusal"},
		{"end after an answer", &RefusalError{io.EOF}, "end"},
		{"shutdown", server("FATAL", AdminShutdown), "end, fatal, ordered"},
		{"crash", server("FATAL", CrashShutdown), "end, fatal, ordered"},
		{"shutdown of another server", server("ERROR", AdminShutdown), "end"},
		{"start-up", server("FATAL", CannotConnectNow), "fatal, no server"},
		{"wrong password", server("FATAL", "28P01"), "fatal, login refusal, statement refusal"},
		{"full server", server("FATAL", "53300"), "fatal, login refusal"},
		{"pooler without a server", server("FATAL", "08P01"), "fatal"},
		{"no permission", server("ERROR", "42501"), "login refusal, statement refusal"},
		{"conflict with recovery", server("ERROR", "40001"), "login refusal"},
		{"statement cancelled", server("ERROR", "57014"), ""},
		{"fault of the server", server("ERROR", "XX000"), "login refusal"},
		{"no code", server("ERROR", ""), "login refusal"},
	} {
		var got []string
		for name, rule := range rules {
			plain := rule(test.err)
			if plain {
				got = append(got, name)
			}
			if test.err != nil && rule(fmt.Errorf("wrapped: %w", test.err)) != plain {
				t.Errorf("%s: %q is another one when the error is wrapped", test.name, name)
			}
		}
		slices.Sort(got)
		if list := strings.Join(got, ", "); list != test.want {
			t.Errorf("%s: %q, not %q", test.name, list, test.want)
		}
	}
}

func TestLastingRefusalsGiveAdvice(t *testing.T) {
	server := func(code string) error { return &pgconn.PgError{SeverityUnlocalized: "FATAL", Code: code} }
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		name    string
		err     error // of the attempts to connect
		lasting bool
		advice  string
	}{
		{"wrong password", server("28P01"), true, "check the user and the password"},
		{"no entry in pg_hba.conf", server("28000"), true, "check the user, and whether the server's pg_hba.conf lets it in"},
		{"no such database", server("3D000"), true, "check the name of the database, or create it"},
		{"no right to connect", server("42501"), true, "grant the user the right to connect to the database"},
		{"a setting that does not exist", server("42704"), true, "check the settings in the DSN"},
		{"a setting's wrong value", server("22023"), true, "check the settings in the DSN"},
		{"no TLS, then a wrong password", errors.Join(errors.New("server refused TLS connection"), server("28P01")), true, "check the user and the password"},
		{"one address refuses, another one is down", errors.Join(server("28000"), refused), false, ""},
		{"one address refuses, another one is silent", errors.Join(server("28000"), context.DeadlineExceeded), false, ""},
		{"one address refuses, another one starts", errors.Join(server("28P01"), server(CannotConnectNow)), false, ""},
		{"start-up", server(CannotConnectNow), false, ""},
		{"full server", server("53300"), false, ""},
		{"pooler without a server", server("08P01"), false, ""},
		{"nobody listens", refused, false, "check host and port, and whether the server runs"},
		{"no socket", &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.ENOENT)}, false, "check the folder of the socket, and whether the server runs"},
		{"unknown name", &net.DNSError{Err: "no such host", IsNotFound: true}, false, "check the host name"},
		{"name server that fails", &net.DNSError{Err: "server misbehaving", IsTemporary: true}, false, ""},
		{"time-out", context.DeadlineExceeded, false, ""},
	} {
		err := error(&ConnectError{Err: test.err})
		if got := IsLastingRefusal(fmt.Errorf("wrapped: %w", err)); got != test.lasting {
			t.Errorf("%s: lasting %t", test.name, got)
		}
		if got := Advice(err); got != test.advice {
			t.Errorf("%s: %q", test.name, got)
		}
		if IsLastingRefusal(test.err) {
			t.Errorf("%s: the error of a statement is no refusal of a login", test.name)
		}
	}
	if Advice(nil) != "" || IsLastingRefusal(nil) || SQLState(nil) != "" || SQLState(server("28P01")) != "28P01" {
		t.Error("no error tells something")
	}
}

func TestCodesHaveTheirMeaning(t *testing.T) {
	for code, stop := range map[string]bool{"57P01": true, "57P02": true, "57P03": true, "57014": false, "57P05": false, "": false} {
		if IsServerStop(code) != stop {
			t.Errorf("%q: %t", code, !stop)
		}
	}
	if !InClass("08P01", OperatorIntervention, ConnectionException) || InClass("08P01", OperatorIntervention) || InClass("0", ConnectionException) {
		t.Error("a class is told by the first two characters")
	}
	for severity, ends := range map[string]bool{"FATAL": true, "PANIC": true, "ERROR": false, "": false} {
		if EndsSession(&pgconn.PgError{Severity: "SCHWERWIEGEND", SeverityUnlocalized: severity}) != ends {
			t.Errorf("%q: %t", severity, !ends)
		}
	}
}
