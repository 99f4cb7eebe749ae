package pgcluster

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoPostgres is in the chain of the error of [FindBinDir] and [Start] if this machine, or the given folder, has no usable
// server programs. A test may skip on it.
var ErrNoPostgres = errors.New("no PostgreSQL server binaries")

// programs are the programs that a bin folder must have.
var programs = []string{"postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"}

// binDirGlobs are the folders of PostgreSQL in packages of Debian and its relatives, of PGDG for Red Hat and its relatives, and of
// Homebrew.
var binDirGlobs = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
}

// FindBinDir returns the folder of PostgreSQL's server programs: $PGBINDIR if it is set, else the newest of the
// places where packages install them, else where PATH finds postgres. The error names each place that was searched, and what to
// install.
func FindBinDir() (string, error) {
	if dir := os.Getenv("PGBINDIR"); dir != "" {
		if missing := missingProgram(dir); missing != "" {
			return "", fmt.Errorf("pgcluster: %w: $PGBINDIR is %s, which has no executable %s", ErrNoPostgres, dir, missing)
		}
		return dir, nil
	}
	var found, looked []string
	for _, glob := range binDirGlobs {
		dirs, _ := filepath.Glob(glob) // the only error is a bad pattern
		found = append(found, dirs...)
		looked = append(looked, glob)
	}
	slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(majorInPath(b), majorInPath(a)) })
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			found = append(found, filepath.Dir(real))
		}
	}
	for _, dir := range found {
		missing := missingProgram(dir)
		if missing == "" {
			return dir, nil
		}
		looked = append(looked, fmt.Sprintf("%s (has no %s)", dir, missing))
	}
	return "", fmt.Errorf("pgcluster: %w: $PGBINDIR is not set and none of these has them: %s, PATH; "+
		"install PostgreSQL's server (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; "+
		"macOS: brew install postgresql) or set PGBINDIR to the folder that holds %s",
		ErrNoPostgres, strings.Join(looked, ", "), strings.Join(programs, ", "))
}

// missingProgram returns the first of programs that dir does not hold as an executable file, "" if it has all.
func missingProgram(dir string) string {
	for _, name := range programs {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return name
		}
	}
	return ""
}

var digits = regexp.MustCompile(`\d+`)

// majorInPath returns the version that a packager put into a folder's name, 0 if there is none.
func majorInPath(path string) int {
	major, _ := strconv.Atoi(digits.FindString(path))
	return major
}
