package dsn_test

import (
	"cmp"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pghasql/hasql/internal/dsn"
)

// libpq is testdata/libpq.c: libpq itself, asked how it reads a DSN.
type libpq struct {
	in  io.Writer
	out io.Reader

	// The host where none is given is compiled into libpq, and looked for by pgx.
	defaultHost, ourDefaultHost string
}

// startLibpq builds the program and runs it until the test ends, with the environment that the test has now. Where
// that can't be, the test is skipped, unless HASQL_REQUIRE_POSTGRES is set.
func startLibpq(t testing.TB) *libpq {
	t.Helper()
	program := filepath.Join(t.TempDir(), "libpq")
	if why := buildLibpq(program); why != "" {
		if runtime.GOOS == "linux" && os.Getenv("HASQL_REQUIRE_POSTGRES") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("testdata/libpq.c: %v", err)
		}
	})
	l := &libpq{in: in, out: out}
	if v := l.read(t, "").version; v < 14 {
		t.Skipf("libpq %d: before 14 it worded its errors otherwise", v)
	}
	const noHost = "dbname=d"
	l.defaultHost, l.ourDefaultHost = l.read(t, noHost).hosts[0].host, read(t, noHost).hosts[0].host
	return l
}

// buildLibpq says why it could not.
func buildLibpq(program string) string {
	if runtime.GOOS != "linux" {
		return "testdata/libpq.c interposes functions as Linux does"
	}
	var dirs [2]string
	for i, option := range []string{"--includedir", "--libdir"} {
		dir, err := exec.Command("pg_config", option).Output()
		if err != nil {
			return "libpq-dev is not installed: pg_config: " + err.Error()
		}
		dirs[i] = strings.TrimSpace(string(dir))
	}
	cc := exec.Command("cc", "-Wall", "-Wextra", "-Werror", "-O1", "-I"+dirs[0], "-o", program,
		filepath.Join("testdata", "libpq.c"), "-L"+dirs[1], "-lpq", "-ldl")
	if output, err := cc.CombinedOutput(); err != nil {
		return "no C compiler, or libpq-dev is not installed: " + err.Error() + "\n" + string(output)
	}
	return ""
}

// reading is what a DSN means to libpq, or to us.
type reading struct {
	dsn            string // of ours
	user, database string
	hosts          []dial
	problems       []string // why it is refused; libpq tells of one, and may dial other hosts nevertheless

	// Of libpq:
	version     int    // 15, 16, …
	oddPort     bool   // a port is written with more than digits
	defaultHost string // what we use where no host is given
}

func (r reading) onlySockets() bool {
	return !slices.ContainsFunc(r.hosts, func(d dial) bool { return d.addr != "" || !dsn.IsSocket(d.host) })
}

// dial is one host of a DSN, and what is used for it.
type dial struct {
	host, addr, port, password string // addr: "" if it says what host says
}

func newDial(host, addr, port, password string) dial {
	if addr == host {
		addr = ""
	}
	return dial{host, addr, port, password}
}

// withoutRefusal takes off what libpq says of a host because of the interposed functions.
func withoutRefusal(message, host string) string {
	for where, end := range map[string]string{
		"at":        "\tIs the server running on that host and accepting TCP/IP connections?\n",
		"on socket": "\tIs the server running locally and accepting connections on that socket?\n",
	} {
		before, rest, found := strings.Cut(message, "connection to server "+where+` "`+host)
		if _, after, ended := strings.Cut(rest, "failed: Connection refused\n"+end); found && ended {
			return before + after
		}
	}
	return message
}

func (l *libpq) read(t testing.TB, dsn string) reading {
	t.Helper()
	request := append(binary.BigEndian.AppendUint32(nil, uint32(len(dsn))), dsn...)
	if _, err := l.in.Write(request); err != nil {
		t.Fatalf("libpq: %v", err)
	}
	var length [4]byte
	if _, err := io.ReadFull(l.out, length[:]); err != nil {
		t.Fatalf("libpq crashed or hangs: %v", err)
	}
	answer := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(l.out, answer); err != nil {
		t.Fatalf("libpq: %v", err)
	}
	texts := strings.Split(strings.TrimSuffix(string(answer), "\x00"), "\x00")
	version, err := strconv.Atoi(texts[0])
	if err != nil {
		t.Fatalf("libpq: %v", err)
	}
	r := reading{version: version, user: texts[1], database: texts[2], defaultHost: l.ourDefaultHost}
	message := texts[len(texts)-1]
	for texts = texts[3:]; len(texts) > 1; texts = texts[5:] {
		host, addr, written, port, password := texts[0], texts[1], texts[2], texts[3], texts[4]
		message = withoutRefusal(message, cmp.Or(addr, host))
		if host == l.defaultHost {
			host = l.ourDefaultHost
		}
		r.hosts = append(r.hosts, newDial(host, addr, port, password))
		r.oddPort = r.oddPort || strings.Trim(written, "0123456789") != ""
	}
	if message != "" {
		r.problems = []string{strings.TrimSuffix(message, "\n")}
	}
	return r
}
