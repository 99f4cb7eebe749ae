package hasql

import (
	"errors"
	"slices"
	"strconv"
	"time"
)

// settings are the keys of a DSN that this package does not pass to the server. Each has a function that changes a
// Config. A key whose value is more than a setting of the Config has no effect here; other code reads it.
var settings = map[string]func(c *Config, value string) error{
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
	"hasql_trace_commits":     boolean(func(c *Config) *bool { return &c.TraceCommits }),
	"hasql_master_as_replica_weight": func(c *Config, value string) (err error) {
		c.MasterAsReplicaWeight, err = number(value)
		return err
	},
	"hasql_zone_spillover": func(c *Config, value string) (err error) {
		if c.ZoneSpillover, err = number(value); err == nil && c.ZoneSpillover == 0 {
			err = errors.New("not above 0") // in a Config it is the default
		}
		return err
	},
	"hasql_balancer": func(c *Config, value string) error {
		picker, ok := balancers[value]
		if !ok {
			return errors.New("not one of least_loaded, greedy, round_robin, random, random_weighted, nearest, first")
		}
		c.Picker = picker()
		return nil
	},
	"hasql_zones":              noEffect,
	"hasql_discovery_interval": duration(func(c *Config) *time.Duration { return &c.DiscoveryInterval }),
	"hasql_discovery": func(_ *Config, value string) error {
		if value != "" && value != "dns" && value != "srv" {
			return errors.New("neither dns nor srv")
		}
		return nil
	},
	"hasql_patroni": noEffect,

	"target_session_attrs": func(c *Config, value string) error {
		c.Target = sessionTargets[value]
		return nil
	},
	// libpq tries the hosts in order unless load_balance_hosts is "random". hasql does so only if the DSN says "disable".
	// hasql_balancer comes first in the order of names, so it outweighs load_balance_hosts.
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

func noEffect(*Config, string) error { return nil }

func number(value string) (float64, error) {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, errors.New("not a number")
	}
	return n, nil
}

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

// onlyOff accepts a setting for a feature that pgx lacks, as long as its value does not ask for the feature.
func onlyOff(values ...string) func(*Config, string) error {
	return func(_ *Config, value string) error {
		if slices.Contains(values, value) {
			return nil
		}
		return errors.New("not supported by pgx")
	}
}

// sessionTargets gives each value of libpq's target_session_attrs its target. A node in hot standby is read-only, and a
// master that is set to read-only is no master here. So "primary" means the same as "read-write", and "standby" the same
// as "read-only".
var sessionTargets = map[string]Target{
	"any":            TargetAny,
	"read-write":     TargetMaster,
	"primary":        TargetMaster,
	"read-only":      TargetReplica,
	"standby":        TargetReplica,
	"prefer-standby": TargetPreferReplica,
}

// isOurs reports whether a key of a DSN is kept from the server.
func isOurs(key string) bool {
	_, ours := settings[key]
	return ours
}
