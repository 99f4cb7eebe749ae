package hasql

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
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

// looksSecret reports whether the host is most likely the rest of a password with such a character in it, so that it must
// not be quoted. The name of an abstract socket begins with an @.
func (e endpoint) looksSecret() bool {
	return strings.ContainsAny(strings.TrimPrefix(e.host, abstract), "@&=?")
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
		hostless, err := pgconn.ParseConfig(override(dsn, "sslmode", "disable", "port", "5432", "host", ""))
		if err != nil {
			return nil, nil, driverProblem(err)
		}
		if hosts := 1 + len(first.Fallbacks); hosts == 1 && first.Host == hostless.Host {
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
		case !isAddress(addr):
			return nil, nil, fmt.Errorf("%s: not an IP address", setting("hostaddr", addr))
		case isSocket(e.host):
			e.host = addr // libpq: with hostaddr the connection is TCP whatever the host says
		default:
			e.addr = addr
		}
	}
	if slices.ContainsFunc(endpoints, endpoint.looksSecret) || isURL(dsn) && hostsAfterTwoAts(dsn) {
		return nil, nil, errors.New("a host contains '@', '&', '=' or '?': write '@' in a user name or password as %40, '/' as %2F")
	}
	if path, _, _ := strings.Cut(dsn, "?"); isURL(dsn) && strings.Contains(all.Database, "@") && strings.HasSuffix(path, "/"+all.Database) {
		return nil, nil, errors.New("the database contains '@': write '@' as %40, and '/' in a user name or password as %2F")
	}
	return endpoints, set, nil
}

// parseEndpoint parses the DSN once more for one of its hosts alone, so that TLS names, TLS fallbacks and the .pgpass
// entry are that host's own.
func parseEndpoint(dsn string, e endpoint) (*pgxpool.Config, error) {
	host := e.host
	if isAbstract(host) {
		host = "/" + host // or pgx would set up TLS, which a socket has not
	}
	pool, err := pgxpool.ParseConfig(override(dsn, "host", host, "port", strconv.Itoa(int(e.port))))
	if err != nil {
		return nil, driverProblem(err)
	}
	pool.ConnConfig.Host = e.host
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

// isSocket reports whether a host is the directory of a Unix socket, or the name of an abstract one.
func isSocket(host string) bool {
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

// lastPortOnly reports whether a URL names a port for its last host alone. libpq gives the other hosts 5432; people
// who come from software that reads the port as everybody's want to be told.
func lastPortOnly(dsn string) bool {
	if !isURL(dsn) {
		return false
	}
	parts, _, _ := netlocs(dsn)
	withPort := func(part string) bool {
		_, port, _ := strings.Cut(part[strings.LastIndexByte(part, ']')+1:], ":")
		return port != ""
	}
	last := len(parts) - 1
	return last > 0 && withPort(parts[last]) && !slices.ContainsFunc(parts[:last], withPort)
}

// namesNothing reports whether a DSN is empty and the environment has nothing in its place. That is allowed, and more often
// a variable of the service that was not set.
func namesNothing(dsn string) bool {
	named := func(env string) bool { return os.Getenv(env) != "" }
	return strings.TrimSpace(dsn) == "" && !slices.ContainsFunc([]string{"PGHOST", "PGHOSTADDR", "PGSERVICE"}, named)
}

var scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)

func unknownScheme(dsn string) string {
	if isURL(dsn) {
		return ""
	}
	return strings.TrimSuffix(scheme.FindString(dsn), "://")
}

// plain matches values that may be shown. Others are kept back, for what looks like one value may be several: where a
// quote or a percent sign is missing or too many, a value has the password behind it.
var plain = regexp.MustCompile(`^[\pL\pN_.,:%+/-]*$`)

// setting names a setting in an error, with its value if that may be shown.
func setting(key, value string) string {
	if !plain.MatchString(value) {
		return key
	}
	return key + "=" + value
}

// driverProblem turns an error of pgx's parser into one without any part of the DSN that could be a password. pgx masks
// passwords only where it recognises them, repeats pieces of malformed input (which can be pieces of a password), and
// carries the whole DSN in its error value; so neither its value nor what it repeats is kept.
func driverProblem(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); !ok {
		return errors.New("not a connection string")
	}
	text := err.Error()
	if file, ok := errors.AsType[*fs.PathError](err); ok && !plain.MatchString(file.Path) {
		text = strings.ReplaceAll(text, file.Path, "file")
	}
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	text = repeated.ReplaceAllString(harmless.Replace(text), "$1")
	if i := strings.IndexByte(text, '"'); i >= 0 {
		text = strings.TrimRight(strings.TrimSuffix(text[:i], "(strconv.ParseInt: parsing "), " :(")
	}
	text = strings.ReplaceAll(text, "\x00", `"`)
	if text == "invalid port" {
		text = "port: not a number from 1 to 65535"
	}
	return errors.New(text)
}

// repeated matches values that messages of pgx's parser end with and do not quote.
var repeated = regexp.MustCompile(`(?s)( value| service| service file): .*`)

// harmless are the quotations in messages of pgx's parser that do not come from its input.
var harmless = strings.NewReplacer(`"="`, "\x00=\x00", `"]"`, "\x00]\x00", `":"`, "\x00:\x00", `"/"`, "\x00/\x00",
	`"sslcert"`, "\x00sslcert\x00", `"sslkey"`, "\x00sslkey\x00")
