package dsn

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// DSN is a connection string for one or more hosts, after libpq's rules for lists, defaults, the environment and the service
// file.
type DSN struct {
	// Endpoints are the hosts in their order, repetitions included.
	Endpoints []Endpoint

	// Settings are the connection settings pgx does not know, from the DSN, the service file and the environment: ours,
	// those of libpq that pgx would send to the server, and what really is meant for the server. target_session_attrs is
	// always there, by its plain name.
	Settings Settings

	text string
}

// Settings are values by their keys.
type Settings map[string]string

// Endpoint is one host of a DSN. Endpoints can be compared.
type Endpoint struct {
	Host string
	Port uint16
	Addr string // hostaddr: dialled instead of Host when set
}

// Name returns host:port.
func (e Endpoint) Name() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// looksSecret reports whether the host is most likely the rest of a password with such a character in it, so that it must
// not be quoted. The name of an abstract socket begins with an @.
func (e Endpoint) looksSecret() bool {
	return strings.ContainsAny(strings.TrimPrefix(e.Host, abstract), "@&=?")
}

// Parse reads a DSN in either form of libpq, with pgx's own parser. An error holds no part of the DSN that could be a
// password.
//
// The parser is asked with sslmode=disable, because it then returns exactly one entry per host; TLS is set up later,
// when each host is parsed on its own by [DSN.Pool].
func Parse(dsn string) (*DSN, error) {
	if scheme := unknownScheme(dsn); scheme != "" {
		return nil, fmt.Errorf("scheme %q: only postgres:// and postgresql:// are known", scheme)
	}
	// As it stands, so that no problem is hidden by what is put behind it. Only ports may still be too many: in
	// "hostaddr=a,b port=1,2" they are counted by addresses, which pgx does not know.
	if _, err := pgconn.ParseConfig(dsn); err != nil && !strings.Contains(err.Error(), "could not match") {
		return nil, driverProblem(err)
	}
	first, err := pgconn.ParseConfig(override(dsn, "sslmode", "disable", "port", "5432"))
	if err != nil {
		return nil, driverProblem(err)
	}
	set := Settings(maps.Clone(first.RuntimeParams))
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
		hostless, err := pgconn.ParseConfig(override(dsn, "sslmode", "disable", "port", "5432", "host", ""))
		if err != nil {
			return nil, driverProblem(err)
		}
		if hosts := 1 + len(first.Fallbacks); hosts == 1 && first.Host == hostless.Host {
			overrides = append(overrides, "host", set["hostaddr"]) // no host was given: libpq uses the addresses alone
		} else if hosts != len(addrs) {
			return nil, fmt.Errorf("hostaddr: %d addresses for %d hosts", len(addrs), hosts)
		}
	}

	all, err := pgconn.ParseConfig(override(dsn, overrides...))
	if err != nil {
		return nil, driverProblem(err)
	}
	endpoints := []Endpoint{{Host: all.Host, Port: all.Port}}
	for _, f := range all.Fallbacks {
		endpoints = append(endpoints, Endpoint{Host: f.Host, Port: f.Port})
	}
	for i, addr := range addrs {
		switch e := &endpoints[i]; {
		case addr == "":
		case !isAddress(addr):
			return nil, fmt.Errorf("%s: not an IP address", Show("hostaddr", addr))
		case IsSocket(e.Host):
			e.Host = addr // libpq: with hostaddr the connection is TCP whatever the host says
		default:
			e.Addr = addr
		}
	}
	if slices.ContainsFunc(endpoints, Endpoint.looksSecret) || isURL(dsn) && hostsAfterTwoAts(dsn) {
		return nil, errors.New("a host contains '@', '&', '=' or '?': write '@' in a user name or password as %40, '/' as %2F")
	}
	if path, _, _ := strings.Cut(dsn, "?"); isURL(dsn) && strings.Contains(all.Database, "@") && strings.HasSuffix(path, "/"+all.Database) {
		return nil, errors.New("the database contains '@': write '@' as %40, and '/' in a user name or password as %2F")
	}
	return &DSN{Endpoints: endpoints, Settings: set, text: dsn}, nil
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
	switch _, query, given := netlocs(dsn); {
	case given && (query == "" || strings.HasSuffix(query, "&")):
		separator = ""
	case given:
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
var emptyEnd = func() *regexp.Regexp {
	const (
		keyword = `[\s\v]*[^\s\v=]+[\s\v]*=[\s\v]*`
		quoted  = `'(?:[^'\\]|\\.)*'`
		bare    = `(?:[^\s\v'\\]|\\.)(?:[^\s\v\\]|\\.)*[\s\v]`
	)
	return regexp.MustCompile(`(?s)^(?:` + keyword + `(?:` + quoted + `|` + bare + `))*` + keyword + `$`)
}()

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// isAddress tells a numeric address, its zone included.
func isAddress(addr string) bool {
	_, err := netip.ParseAddr(addr)
	return err == nil && plain.MatchString(addr)
}

// IsSocket reports whether a host is the directory of a Unix socket, or the name of an abstract one.
func IsSocket(host string) bool {
	network, _ := pgconn.NetworkAddress(host, 0)
	return network == "unix" || isAbstract(host)
}

// abstract is what the host of a socket in Linux's abstract namespace begins with. libpq knows these; pgx takes such a host
// for the name of a machine.
const abstract = "@"

func isAbstract(host string) bool { return strings.HasPrefix(host, abstract) }

// hostsAfterTwoAts reports whether a host in a URL begins with an @ that is not written as %40: the password before it has
// one at its end.
func hostsAfterTwoAts(url string) bool {
	parts, _, _ := netlocs(url)
	return slices.ContainsFunc(parts, isAbstract)
}

// netlocs returns the host[:port] parts of a URL as they are written, and the query part if one follows them.
func netlocs(url string) (parts []string, query string, given bool) {
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
			return append(parts, rest), "", false
		}
		end += start
		parts = append(parts, rest[:end])
		if rest[end] != ',' {
			_, query, given = strings.Cut(rest[end:], "?")
			return parts, query, given
		}
		rest = rest[end+1:]
	}
}

// LastPortOnly reports whether a URL names a port for its last host alone. libpq gives the other hosts 5432; people
// who come from software that reads the port as everybody's want to be told.
func (d *DSN) LastPortOnly() bool {
	if !isURL(d.text) {
		return false
	}
	parts, _, _ := netlocs(d.text)
	withPort := func(part string) bool {
		_, port, _ := strings.Cut(part[strings.LastIndexByte(part, ']')+1:], ":")
		return port != ""
	}
	last := len(parts) - 1
	return last > 0 && withPort(parts[last]) && !slices.ContainsFunc(parts[:last], withPort)
}

// NamesNothing reports whether the DSN is empty and the environment has nothing in its place. libpq allows that; here it is most
// often a variable of the service that was not set.
func (d *DSN) NamesNothing() bool {
	named := func(env string) bool { return os.Getenv(env) != "" }
	return strings.TrimSpace(d.text) == "" && !slices.ContainsFunc([]string{"PGHOST", "PGHOSTADDR", "PGSERVICE"}, named)
}

var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)

func unknownScheme(dsn string) string {
	if isURL(dsn) {
		return ""
	}
	return strings.TrimSuffix(scheme.FindString(dsn), "://")
}
