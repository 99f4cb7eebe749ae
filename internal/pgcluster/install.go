package pgcluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// oldestMajor is the first version whose standbys take a new primary_conninfo without a restart and whose
// pg_rewind recovers a crashed target itself.
const oldestMajor = 13

// install is a set of PostgreSQL programs and the account they run under.
type install struct {
	binDir  string // without symbolic links, as /proc shows it
	version string // 15.18
	major   int    // 15
	account account
}

// account is an operating system user. [serverAccount] returns the one that servers run as.
type account struct {
	uid, gid int
	home     string // its $HOME; set once the cluster's folder exists
	assume   bool   // this process is root and must switch to the account
}

var versionNumber = regexp.MustCompile(`\d+(\.\d+|beta\d+|rc\d+|devel)?`)

// newInstall finds the programs (binDir "" = [FindBinDir]), the account to run them under, and their version.
func newInstall(ctx context.Context, binDir string) (*install, error) {
	if binDir == "" {
		found, err := FindBinDir()
		if err != nil {
			return nil, err
		}
		binDir = found
	}
	if missing := missingProgram(binDir); missing != "" {
		return nil, fmt.Errorf("pgcluster: %w: %s has no executable %s", ErrNoPostgres, binDir, missing)
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(binDir, "postgres"))
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	account, err := serverAccount()
	if err != nil {
		return nil, err
	}
	pg := &install{binDir: filepath.Dir(resolved), account: account}
	out, err := pg.run(ctx, command{dir: "/", name: "postgres", args: []string{"--version"}})
	if err != nil {
		return nil, fmt.Errorf("pgcluster: %w", err)
	}
	pg.version = versionNumber.FindString(out)
	pg.major, _ = strconv.Atoi(digits.FindString(pg.version))
	if pg.major < oldestMajor {
		return nil, fmt.Errorf("pgcluster: %s holds %q: need PostgreSQL %d or newer", pg.binDir, strings.TrimSpace(out), oldestMajor)
	}
	return pg, nil
}

// command is one run of one of PostgreSQL's programs.
type command struct {
	dir      string // working directory; one inside the cluster's folder is how the watchdog finds the process
	name     string // program in the bin folder
	args     []string
	stdin    string
	password string // passed as PGPASSWORD, because every user can see arguments
}

// run runs a program to its end as the server's account and returns what it wrote to both outputs. When ctx ends,
// the program is killed together with what it started. The error holds the command and the end of its output.
func (pg *install) run(ctx context.Context, c command) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(pg.binDir, c.name), c.args...)
	cmd.Dir = c.dir
	cmd.Env = pg.environ(c.password)
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = sessionAttr(pg.account)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = time.Second // a grandchild that left the group may keep the pipe open
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return out.String(), fmt.Errorf("%s %s: %w: %s", c.name, strings.Join(c.args, " "), err, lastLines(out.String()))
	}
	return out.String(), nil
}

// environ returns the environment of this process without the variables that change what PostgreSQL's programs do (PG…, LC_…).
func (pg *install) environ(password string) []string {
	env := make([]string, 0, 16)
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") || name == "LANG" || name == "HOME" {
			continue
		}
		env = append(env, pair)
	}
	env = append(env, "LC_ALL=C", "HOME="+pg.account.home)
	if password != "" {
		env = append(env, "PGPASSWORD="+password)
	}
	return env
}

// tailLines is how many lines of a program's output an error quotes.
const tailLines = 12

// lastLines returns the end of a program's output, for an error.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
