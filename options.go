package hasql

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// options are the keys of a DSN that this package keeps from the server, each with what it does to a Config. Keys
// whose value concerns more than the Config alone have no effect here and are read where they are needed.
var options = map[string]func(c *Config, value string) error{
	"hasql_check_interval":    duration(func(c *Config) *time.Duration { return &c.CheckInterval }),
	"hasql_check_timeout":     duration(func(c *Config) *time.Duration { return &c.CheckTimeout }),
	"hasql_down_timeout":      duration(func(c *Config) *time.Duration { return &c.DownTimeout }),
	"hasql_recovery_interval": duration(func(c *Config) *time.Duration { return &c.RecoveryInterval }),
	"hasql_acquire_timeout":   duration(func(c *Config) *time.Duration { return &c.AcquireTimeout }),
	"hasql_max_replica_lag":   duration(func(c *Config) *time.Duration { return &c.MaxReplicaLag }),
	"hasql_fallback_master":   boolean(func(c *Config) *bool { return &c.FallbackMaster }),
	"hasql_multi_master":      boolean(func(c *Config) *bool { return &c.MultiMaster }),
	"hasql_require_majority":  boolean(func(c *Config) *bool { return &c.RequireMajority }),
	"hasql_repeat":            boolean(func(c *Config) *bool { return &c.Repeat }),
	"hasql_master_as_replica_weight": func(c *Config, value string) (err error) {
		if c.MasterAsReplicaWeight, err = strconv.ParseFloat(value, 64); err != nil {
			return errors.New("not a number")
		}
		return nil
	},
	"hasql_balancer": func(c *Config, value string) error {
		picker, ok := balancers[value]
		if !ok {
			return errors.New("not one of least_loaded, greedy, round_robin, random, random_weighted, nearest, first")
		}
		c.Picker = picker()
		return nil
	},
	"hasql_zones": noEffect,

	"target_session_attrs": func(c *Config, value string) error {
		c.Target = sessionTargets[value]
		return nil
	},
	// libpq tries the hosts in order unless it is told "random". Here that is the default only if it is asked for, and
	// hasql_balancer, which comes before in the order of names, outweighs both.
	"load_balance_hosts": func(c *Config, value string) error {
		policy, ok := map[string]Picker{"random": Random(), "disable": First()}[value]
		switch {
		case !ok:
			return errors.New("neither disable nor random")
		case c.Picker == nil:
			c.Picker = policy
		}
		return nil
	},
	"fallback_application_name": noEffect,
	"hostaddr":                  noEffect,
	"keepalives":                noEffect,
	"keepalives_idle":           noEffect,
	"keepalives_interval":       noEffect,
	"keepalives_count":          noEffect,
	"tcp_user_timeout":          noEffect,
	"gssencmode":                onlyOff("disable", "prefer"),
	"sslcompression":            onlyOff("0"),
}

var balancers = map[string]func() Picker{
	"least_loaded":    LeastLoaded,
	"greedy":          Greedy,
	"round_robin":     RoundRobin,
	"random":          Random,
	"random_weighted": RandomWeighted,
	"nearest":         Nearest,
	"first":           First,
}

// poolOptions are pgxpool's own, to tell a misspelt one from a setting meant for the server.
var poolOptions = []string{
	"pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime",
	"pool_max_conn_lifetime_jitter", "pool_max_conn_idle_time", "pool_health_check_period", "pool_ping_timeout",
}

// unsupported are settings of libpq that pgx does not know and would send to the server, which refuses them at each
// connection. Most promise security that would not be there.
var unsupported = []string{
	"gssdelegation", "gsslib", "requirepeer", "requiressl", "scram_client_key", "scram_server_key", "ssl", "sslcrl",
	"sslcrldir", "sslkeylogfile", "ssl_min_protocol_version", "ssl_max_protocol_version", "oauth_issuer",
	"oauth_client_id", "oauth_client_secret", "oauth_scope", "passcommand",
}

// settingName matches what can be the name of a setting in PostgreSQL.
var settingName = regexp.MustCompile(`^[\pL\pN_.$]+$`)

func noEffect(*Config, string) error { return nil }

func duration(field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, value string) (err error) {
		if *field(c), err = time.ParseDuration(value); err != nil {
			return errors.New("not a duration such as 500ms or 2s")
		}
		return nil
	}
}

func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, value string) error {
		switch value {
		case "true", "on", "yes", "1":
			*field(c) = true
		case "false", "off", "no", "0":
			*field(c) = false
		default:
			return errors.New("neither true nor false")
		}
		return nil
	}
}

// onlyOff accepts a setting for something pgx cannot do as long as it does not ask for it.
func onlyOff(values ...string) func(*Config, string) error {
	return func(_ *Config, value string) error {
		if slices.Contains(values, value) {
			return nil
		}
		return errors.New("not supported by pgx")
	}
}

// sessionTargets gives libpq's target_session_attrs its target. A node in hot standby is read-only, and a master
// that is set read-only is no master here, so "primary" means what "read-write" means, and "standby" what "read-only".
var sessionTargets = map[string]Target{
	"any":            TargetAny,
	"read-write":     TargetMaster,
	"primary":        TargetMaster,
	"read-only":      TargetReplica,
	"standby":        TargetReplica,
	"prefer-standby": TargetPreferReplica,
}

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
