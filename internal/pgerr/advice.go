package pgerr

import (
	"errors"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Advice says what to do about a connection that cannot be made, in a few words. It is "" for errors that do not tell.
func Advice(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		if IsLastingRefusal(err) {
			return loginAdvice(pgErr.Code)
		}
		return ""
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "check the host name"
	}
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case ok && op.Net == "unix" && errors.Is(err, syscall.ENOENT):
		return "check the folder of the socket, and whether the server runs"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "check host and port, and whether the server runs"
	}
	return ""
}

func loginAdvice(code string) string {
	switch {
	case code == InvalidPassword:
		return "check the user and the password"
	case InClass(code, InvalidAuthorization):
		return "check the user, and whether the server's pg_hba.conf lets it in"
	case InClass(code, InvalidCatalogName):
		return "check the name of the database, or create it"
	case code == InsufficientPrivilege:
		return "grant the user the right to connect to the database"
	}
	return "check the settings in the DSN"
}
