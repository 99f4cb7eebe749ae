package dsn

import (
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PoolKeys are pgxpool's own keys. They distinguish a misspelt key from a setting of the server.
var PoolKeys = []string{
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime",
	"pool_max_conn_lifetime_jitter", "pool_max_conn_idle_time", "pool_health_check_period", "pool_ping_timeout",
}

// unsupported are settings of libpq that pgx does not know. pgx would send them to the server, which would refuse every
// connection. Most of them promise security that would be missing.
var unsupported = []string{
	"gssdelegation", "gsslib", "requirepeer", "requiressl", "scram_client_key", "scram_server_key", "ssl", "sslcrl",
	"sslcrldir", "sslkeylogfile", "ssl_min_protocol_version", "ssl_max_protocol_version", "oauth_issuer",
	"oauth_client_id", "oauth_client_secret", "oauth_scope", "passcommand",
}

// KeyProblem says why a setting with this key is invalid, if the key is not hasql's own. It returns "" if the key may be
// a setting of the server.
func KeyProblem(key string) string {
	switch {
	case !settingName.MatchString(key):
		return "unknown key: not a setting of libpq, pgx or PostgreSQL" // the key is not shown: it may be a piece of a password
	case strings.HasPrefix(key, "pool_") && !slices.Contains(PoolKeys, key):
		return key + ": no such option of pgxpool"
	case slices.Contains(unsupported, key):
		return key + ": not supported by pgx"
	}
	return ""
}

// settingName matches what can be the name of a setting in PostgreSQL.
var settingName = regexp.MustCompile(`^[\pL\pN_.$]+$`)

// sessionAttrs returns the target_session_attrs that pgx's parser found. The parser keeps it only as the check that it
// chose, so the check is compared with pgx's exported ones.
func sessionAttrs(check pgconn.ValidateConnectFunc) string {
	at := func(f pgconn.ValidateConnectFunc) uintptr { return reflect.ValueOf(f).Pointer() }
	if check == nil {
		return "any"
	}
	for name, f := range map[string]pgconn.ValidateConnectFunc{
		"read-write":     pgconn.ValidateConnectTargetSessionAttrsReadWrite,
		"primary":        pgconn.ValidateConnectTargetSessionAttrsPrimary,
		"read-only":      pgconn.ValidateConnectTargetSessionAttrsReadOnly,
		"standby":        pgconn.ValidateConnectTargetSessionAttrsStandby,
		"prefer-standby": pgconn.ValidateConnectTargetSessionAttrsPreferStandby,
	} {
		if at(f) == at(check) {
			return name
		}
	}
	return "any"
}
