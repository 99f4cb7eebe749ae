package hasql

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// endpoint is one host of a DSN after libpq's rules for lists, defaults, the environment and the service file.
type endpoint struct {
	host string
	port uint16
	addr string // hostaddr: dialled instead of host when set
}

func (e endpoint) name() string {
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// settings are the connection settings pgx does not know, from the DSN, the service file and the environment: ours,
// pgxpool's, those of libpq that pgx would send to the server, and what really is meant for the server.
type settings map[string]string

// splitDSN reads a multi-host DSN with pgx's own parser and returns its hosts in order, repetitions included.
//
// The parser is asked with sslmode=disable, because it then returns exactly one entry per host; TLS is set up later,
// when each host is parsed on its own.
func splitDSN(dsn string) ([]endpoint, settings, error) {
	if scheme := unknownScheme(dsn); scheme != "" {
		return nil, nil, fmt.Errorf("scheme %q: only postgres:// and postgresql:// are known", scheme)
	}
	// As it stands, so that no problem is hidden by what is put behind it. Only ports may still be too many: in
	// "hostaddr=a,b port=1,2" they are counted by addresses, which pgx does not know.
	if _, err := pgconn.ParseConfig(dsn); err != nil && !strings.Contains(err.Error(), "could not match") {
		return nil, nil, driverProblem(err)
	}
	first, err := pgconn.ParseConfig(override(dsn, "sslmode", "disable", "port", "5432"))
	if err != nil {
		return nil, nil, driverProblem(err)
	}
	set := settings(maps.Clone(first.RuntimeParams))
	set["target_session_attrs"] = sessionAttrs(first.ValidateConnect)
	for key, env := range map[string]string{"hostaddr": "PGHOSTADDR", "load_balance_hosts": "PGLOADBALANCEHOSTS"} {
		if _, given := set[key]; !given && os.Getenv(env) != "" {
			set[key] = os.Getenv(env)
		}
	}

	overrides := []string{"sslmode", "disable"}
	var addrs []string
	if set["hostaddr"] != "" {
		addrs = strings.Split(set["hostaddr"], ",")
		if hosts := 1 + len(first.Fallbacks); hosts == 1 && (isSocket(first.Host) || first.Host == "localhost" && !strings.Contains(dsn, "localhost")) {
			overrides = append(overrides, "host", set["hostaddr"]) // no host was given: libpq uses the addresses alone
		} else if hosts != len(addrs) {
			return nil, nil, fmt.Errorf("hostaddr: %d addresses for %d hosts", len(addrs), hosts)
		}
	}

	all, err := pgconn.ParseConfig(override(dsn, overrides...))
	if err != nil {
		return nil, nil, driverProblem(err)
	}
	endpoints := []endpoint{{host: all.Host, port: all.Port}}
	for _, f := range all.Fallbacks {
		endpoints = append(endpoints, endpoint{host: f.Host, port: f.Port})
	}
	for i, addr := range addrs {
		switch e := &endpoints[i]; {
		case addr == "":
		case net.ParseIP(addr) == nil:
			return nil, nil, fmt.Errorf("hostaddr: %q is not an IP address", addr)
		case isSocket(e.host):
			e.host = addr // libpq: with hostaddr the connection is TCP whatever the host says
		default:
			e.addr = addr
		}
	}
	for _, e := range endpoints {
		// Most likely the rest of a password with such a character in it, so nothing is quoted.
		if strings.ContainsAny(e.host, "@&=?") {
			return nil, nil, errors.New("a host contains '@', '&', '=' or '?': write '@' in a user name or password as %40, '/' as %2F")
		}
	}
	if path, _, _ := strings.Cut(dsn, "?"); isURL(dsn) && strings.Contains(all.Database, "@") && strings.HasSuffix(path, "/"+all.Database) {
		return nil, nil, errors.New("the database contains '@': write '@' as %40, and '/' in a user name or password as %2F")
	}
	return endpoints, set, nil
}

// parseEndpoint parses the DSN once more for one of its hosts alone, so that TLS names, TLS fallbacks and the .pgpass
// entry are that host's own.
func parseEndpoint(dsn string, e endpoint) (*pgxpool.Config, error) {
	pool, err := pgxpool.ParseConfig(override(dsn, "host", e.host, "port", strconv.Itoa(int(e.port))))
	if err != nil {
		return nil, driverProblem(err)
	}
	return pool, nil
}

// override returns dsn with the given key, value pairs put behind it: in both of libpq's forms the last word wins.
func override(dsn string, pairs ...string) string {
	var b strings.Builder
	if !isURL(dsn) {
		// A backslash at the very end escapes nothing; it must not escape the blank that follows now.
		if trimmed := strings.TrimRight(dsn, `\`); (len(dsn)-len(trimmed))%2 == 1 {
			dsn = dsn[:len(dsn)-1]
		}
		b.WriteString(dsn)
		if emptyEnd.MatchString(dsn) {
			b.WriteString("''") // or it would take what follows for its value
		}
		quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for pair := range slices.Chunk(pairs, 2) {
			fmt.Fprintf(&b, " %s='%s'", pair[0], quote.Replace(pair[1]))
		}
		return b.String()
	}
	b.WriteString(dsn)
	separator := "?"
	if _, query := netlocs(dsn); query {
		separator = "&"
	}
	for pair := range slices.Chunk(pairs, 2) {
		fmt.Fprintf(&b, "%s%s=", separator, pair[0])
		for _, c := range []byte(pair[1]) {
			fmt.Fprintf(&b, "%%%02X", c)
		}
		separator = "&"
	}
	return b.String()
}

// emptyEnd matches a keyword/value string that ends with a keyword without a value: "host=pg1 password=".
var emptyEnd = regexp.MustCompile(`(^|[^\\]\s|^\s)[^\s=']+\s*=\s*$`)

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

func isSocket(host string) bool {
	network, _ := pgconn.NetworkAddress(host, 0)
	return network == "unix"
}

// netlocs returns the host[:port] parts of a URL as they are written, and whether a query part follows them.
func netlocs(url string) (parts []string, query bool) {
	_, rest, _ := strings.Cut(url, "://")
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		rest = rest[i+1:]
	}
	for {
		start := 0
		if strings.HasPrefix(rest, "[") {
			start = max(strings.IndexByte(rest, ']'), 0)
		}
		end := strings.IndexAny(rest[start:], ",/?")
		if end < 0 {
			return append(parts, rest), false
		}
		end += start
		parts = append(parts, rest[:end])
		if rest[end] != ',' {
			return parts, strings.Contains(rest[end:], "?")
		}
		rest = rest[end+1:]
	}
}

// lastPortOnly reports whether a URL names a port for its last host alone. libpq gives the other hosts 5432; people
// who come from software that reads the port as everybody's want to be told.
func lastPortOnly(dsn string) bool {
	if !isURL(dsn) {
		return false
	}
	parts, _ := netlocs(dsn)
	withPort := func(part string) bool {
		_, port, _ := strings.Cut(part[strings.LastIndexByte(part, ']')+1:], ":")
		return port != ""
	}
	last := len(parts) - 1
	return last > 0 && withPort(parts[last]) && !slices.ContainsFunc(parts[:last], withPort)
}

var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)

func unknownScheme(dsn string) string {
	if isURL(dsn) {
		return ""
	}
	return strings.TrimSuffix(scheme.FindString(dsn), "://")
}

// driverProblem turns an error of pgx's parser into one without any part of the DSN. pgx masks passwords only where
// it recognises them, quotes pieces of malformed input (which can be pieces of a password), and carries the whole DSN
// in its error value; so neither its value nor anything it quotes is kept.
func driverProblem(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); !ok {
		return errors.New("not a connection string")
	}
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	text = harmless.Replace(text)
	if i := strings.IndexByte(text, '"'); i >= 0 {
		text = strings.TrimRight(strings.TrimSuffix(text[:i], "(strconv.ParseInt: parsing "), " :(")
	}
	text = strings.ReplaceAll(text, "\x00", `"`)
	if text == "invalid port" {
		text = "port: not a number from 1 to 65535"
	}
	return errors.New(text)
}

// harmless are the quotations in messages of pgx's parser that do not come from its input.
var harmless = strings.NewReplacer(`"="`, "\x00=\x00", `"]"`, "\x00]\x00", `":"`, "\x00:\x00", `"/"`, "\x00/\x00")
