package dsn_test

import (
	"regexp"
	"slices"
	"strings"

	"github.com/pghasql/hasql/internal/dsn"
)

// A difference is one between libpq's reading of a DSN and ours that is accepted.
type difference struct {
	name string
	why  string
	seed string // of FuzzDSN: a DSN that shows it

	refused  string                              // regexp: what we say, and libpq says nothing
	accepted string                              // regexp: what libpq says, and we say nothing
	adapt    func(ours reading, theirs *reading) // makes ours of libpq's reading

	when func(ours, theirs reading) bool // narrows refused and accepted; nil: always

	since, before int // the versions of libpq that differ; 0: all
}

var differences = []difference{
	// What we read otherwise, in the order of adapting.
	{
		name:     "blanks around the parts of a URL",
		why:      "libpq since 17 takes them off, and pgx",
		seed:     "uri-blank-at-end",
		before:   17,
		accepted: `.* "(\s.*|.*\s)".*`,
		when:     func(ours, _ reading) bool { return dsn.IsURL(ours.dsn) },
		adapt:    withoutBlanks,
	},
	{
		name: "repetitions",
		why:  "a host that is listed twice is one node; libpq tries it twice, and prefer-standby makes it try every host twice",
		seed: "kv-duplicates",
		adapt: func(_ reading, theirs *reading) {
			var once []dial
			for _, d := range theirs.hosts {
				if !slices.Contains(once, d) {
					once = append(once, d)
				}
			}
			theirs.hosts = once
		},
	},
	{
		name:  "load_balance_hosts=random",
		why:   "libpq shuffles the list, for us it is a choice among nodes",
		seed:  "kv-load-balance-hosts-random",
		since: 16,
		adapt: func(ours reading, theirs *reading) {
			missing := func(d dial) bool { return !slices.Contains(theirs.hosts, d) }
			if strings.Contains(ours.dsn, "random") && len(ours.hosts) == len(theirs.hosts) && !slices.ContainsFunc(ours.hosts, missing) {
				theirs.hosts = ours.hosts
			}
		},
	},
	{
		name: "socket directory with hostaddr",
		why:  "hostaddr decides in both; a directory is no name for a node on another machine",
		seed: "kv-hostaddr-of-socket",
		adapt: func(_ reading, theirs *reading) {
			for i, d := range theirs.hosts {
				if d.addr != "" && dsn.IsSocket(d.host) {
					theirs.hosts[i].host, theirs.hosts[i].addr = d.addr, ""
				}
			}
		},
	},
	{
		name: "an empty user in a URL",
		why:  "pgx keeps it, the server refuses it; libpq takes the name of the system's user",
		seed: "uri-empty-user-in-query",
		adapt: func(ours reading, theirs *reading) {
			if ours.user == "" {
				theirs.user, theirs.database = "", ours.database
			}
		},
	},
	{
		name: "an empty user behind another",
		why:  "pgx keeps the other; libpq takes the name of the system's user",
		seed: "kv-user-empty-behind-another",
		adapt: func(ours reading, theirs *reading) {
			if dsn.IsURL(ours.dsn) || !regexp.MustCompile(`user\s*=\s*(''|$)`).MatchString(ours.dsn) {
				return
			}
			if theirs.database == theirs.user {
				theirs.database = ours.user
			}
			theirs.user = ours.user
		},
	},

	// What we accept.
	{
		name:     "options of ours and of pgx",
		why:      "that is how they are set",
		seed:     "kv-hasql",
		accepted: unknownKey(ownKeys),
	},
	{
		name:     "keys of newer libpqs",
		why:      "pgx knows them, and load_balance_hosts is ours; libpq since 16 to 18",
		seed:     "kv-servicefile",
		before:   18,
		accepted: unknownKey(newerKeys),
	},
	{
		name:     "settings for the server",
		why:      "pgx sends what it doesn't know, and reads database as dbname; the server refuses what isn't one of its settings",
		seed:     "uri-query-unknown",
		accepted: unknownKey(`[\pL\pN_.$]+`),
		when: func(_, theirs reading) bool {
			return !regexp.MustCompile(unknownKey(ownKeys + "|" + newerKeys)).MatchString(theirs.problems[0])
		},
	},
	{
		name:     "empty values",
		why:      "pgx takes the default",
		seed:     "kv-sslmode-empty",
		accepted: `invalid (sslmode|channel_binding) value: ""`,
	},
	{
		name:     "sslmode without a use",
		why:      "pgx reads it where it dials TCP, which it doesn't if every host is a socket, and not if sslrootcert=system decides",
		seed:     "kv-sslmode-bad-for-socket",
		accepted: `invalid sslmode value: ".*"`,
		when: func(ours, _ reading) bool {
			return ours.onlySockets() || strings.Contains(ours.dsn, "sslrootcert")
		},
	},
	{
		name:     "sslmode less than verify-full with sslrootcert=system",
		why:      "pgx makes verify-full of it",
		seed:     "kv-sslmode-weak-with-system-roots",
		since:    16,
		accepted: `weak sslmode ".*" may not be used with sslrootcert=system.*`,
	},
	{
		name:     "socket path too long",
		why:      "the limit is the system's, and the dial says so",
		seed:     "kv-socket-too-long",
		accepted: `Unix-domain socket path ".*" is too long \(maximum \d+ bytes\)`,
	},
	{
		name:     "a zone that is no interface here",
		why:      "that is found out by the dial",
		seed:     "kv-hostaddr-zone-unknown",
		accepted: `could not parse network address ".*%.*": .*`,
	},
	{
		name:     "keepalives out of the kernel's range",
		why:      "that is found out by the dial",
		seed:     "kv-keepalives-out-of-range",
		accepted: `.* failed: setsockopt\(\w+\) failed: Invalid argument`,
	},
	{
		name:     "the default host by its name, and several addresses",
		why:      "pgx doesn't tell that it was named",
		seed:     "kv-hostaddr-counts-differ-for-the-default-host",
		accepted: `could not match 1 host names to \d+ hostaddr values`,
	},

	// What we refuse.
	{
		name:    "an empty DSN",
		why:     "it names no cluster: most often a variable of the service was not set",
		seed:    "kv-empty",
		refused: `the DSN is empty, .*`,
	},
	{
		name:    "unsupported by pgx",
		why:     "what the setting promises would not be there, or the server would refuse it",
		seed:    "kv-sslcrl",
		refused: `(` + strings.Join(dsn.Unsupported, "|") + `|gssencmode(=.*)?|sslcompression(=.*)?): not supported by pgx`,
	},
	{
		name:    "requiressl behind sslmode",
		why:     "libpq takes it for sslmode, so it hides what stands there; we refuse it in any case",
		seed:    "kv-requiressl-behind-sslmode",
		refused: `failed to configure TLS \(sslmode is invalid\)`,
		when:    func(ours, _ reading) bool { return strings.Contains(ours.dsn, "requiressl") },
	},
	{
		name:    "files",
		why:     "pgx reads certificates and keys at once, libpq when it connects",
		seed:    "kv-sslrootcert-missing",
		refused: `failed to configure TLS \((unable to read (CA file|sslkey|cert)|both "sslcert" and "sslkey" are required|unable to add CA to cert pool).*`,
	},
	{
		name:    "connect_timeout",
		why:     "libpq reads it in blocking calls alone, refuses text there, takes -1 for no limit; pgx refuses both",
		seed:    "kv-connect-timeout-text",
		refused: `invalid connect_timeout( \(.*\))?`,
	},
	{
		name:    "keepalives that are off",
		why:     "libpq doesn't read the numbers then; nonsense is nonsense",
		seed:    "kv-keepalives-off-and-text",
		refused: `(keepalives_(idle|interval|count)|tcp_user_timeout)(=.*)?: not a whole number`,
	},
	{
		name:    "keepalives of sockets",
		why:     "the same",
		seed:    "kv-keepalives-empty-for-socket",
		refused: `(keepalives(_idle|_interval|_count)?|tcp_user_timeout)(=.*)?: not a whole number`,
		when:    func(_, theirs reading) bool { return theirs.onlySockets() },
	},
	{
		name:    "port with a sign or blanks",
		why:     "libpq uses strtol, pgx is strict",
		seed:    "kv-port-list-with-blanks",
		refused: `port: not a number from 1 to 65535`,
		when: func(_, theirs reading) bool {
			return theirs.oddPort
		},
	},
	{
		name:    "a hostaddr that is short",
		why:     "127.1 is 127.0.0.1 for inet_aton, and for nobody else any more",
		seed:    "kv-hostaddr-short",
		refused: `hostaddr(=.*)?: not an IP address`,
	},
	{
		name:    "a host that looks like the rest of a password",
		why:     "the message would be one of a host that can't be resolved, with the password in it",
		seed:    "uri-password-with-at",
		refused: "a host contains '@', '&', '=' or '[?]'.*",
	},
	{
		name:    "a database that looks like the rest of a password",
		why:     "the same",
		seed:    "uri-password-with-digits-and-slash",
		refused: "the database contains '@'.*",
	},
	{
		name:    "blanks in a URL",
		why:     "libpq since 17 refuses them, and pgx",
		seed:    "uri-blank-inside",
		before:  17,
		refused: `failed to parse as URL \(unexpected spaces found in.*`,
	},
	{
		name:    "a NUL byte",
		why:     "libpq reads as far as it",
		seed:    "kv-nul",
		refused: `failed to parse as (keyword/value|URL) \(forbidden NUL byte in connection string\)`,
	},
}

func (d *difference) excuses(pattern, problem string, ours, theirs reading) bool {
	return pattern != "" && regexp.MustCompile(`^(?s:`+pattern+`)$`).MatchString(problem) && (d.when == nil || d.when(ours, theirs))
}

// withoutBlanks takes off those that we took off. Blanks written as %20 are not among them.
func withoutBlanks(ours reading, theirs *reading) {
	if !dsn.IsURL(ours.dsn) {
		return
	}
	trim := func(text *string, want string) {
		if strings.Contains(*text, want) && strings.Trim(*text, " ") == strings.Trim(want, " ") {
			*text = want
		}
	}
	trim(&theirs.user, ours.user)
	if trim(&theirs.database, ours.database); strings.Trim(theirs.database, " ") == "" && ours.database == ours.user {
		theirs.database = ours.user
	}
	for i := range theirs.hosts {
		h := &theirs.hosts[i]
		known := func() bool { return slices.ContainsFunc(ours.hosts, func(our dial) bool { return our.host == h.host }) }
		for _, our := range ours.hosts {
			if trim(&h.password, our.password); !known() {
				trim(&h.host, our.host)
			}
		}
		if strings.Trim(h.host, " ") == "" && !known() {
			h.host = theirs.defaultHost
		}
	}
}

const (
	ownKeys   = `hasql_\w+|pool_\w+|statement_cache_capacity|description_cache_capacity|default_query_exec_mode`
	newerKeys = "load_balance_hosts|require_auth|sslcertmode|sslnegotiation|min_protocol_version|max_protocol_version|servicefile"
)

// unknownKey is what libpq says of keys that it does not know.
func unknownKey(keys string) string {
	return `invalid (connection option|URI query parameter:) "(` + keys + `)"`
}
