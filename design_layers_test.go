package hasql

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFilesKnowOnlyThoseBelow keeps the table "Who may know whom" of DESIGN.md true: a file uses what files of its own row
// and of lower rows define.
func TestFilesKnowOnlyThoseBelow(t *testing.T) {
	rows := designRows(t)
	uses := fileUses(t)
	for _, file := range slices.Sorted(maps.Keys(uses)) {
		if _, ok := rows[file]; !ok {
			t.Errorf("%s is in no row of %q in DESIGN.md", file, "Who may know whom")
		}
	}
	for _, file := range slices.Sorted(maps.Keys(rows)) {
		if _, ok := uses[file]; !ok {
			t.Errorf("%s has a row in DESIGN.md and is not there", file)
		}
	}
	for _, user := range slices.Sorted(maps.Keys(uses)) {
		for _, used := range slices.Sorted(maps.Keys(uses[user])) {
			if rows[used] >= rows[user] {
				continue
			}
			t.Errorf("%s uses %s, which is above it: %s", user, used, strings.Join(slices.Sorted(maps.Keys(uses[user][used])), ", "))
		}
	}
}

// designRows returns the number of each file's row in DESIGN.md, counted from the top.
func designRows(t *testing.T) map[string]int {
	t.Helper()
	design, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(design), "\n## Who may know whom\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := make(map[string]int)
	for i, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		for _, name := range regexp.MustCompile("`([a-z_]+\\.go)`").FindAllStringSubmatch(line, -1) {
			if _, twice := rows[name[1]]; twice {
				t.Errorf("%s has two rows in DESIGN.md", name[1])
			}
			rows[name[1]] = i
		}
	}
	return rows
}

// fileUses returns for each file of this package the other files that it uses, with the names that these define: functions,
// types, variables, constants, methods and fields.
func fileUses(t *testing.T) map[string]map[string]map[string]bool {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{join .GoFiles \" \"}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := make(map[string]string)
	var names []string
	for line := range strings.Lines(string(out)) {
		cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		exports[cells[0]], names = cells[1], strings.Fields(cells[2]) // the last one is this package
	}
	fset := token.NewFileSet()
	var files []*ast.File
	uses := make(map[string]map[string]map[string]bool)
	for _, name := range names {
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files, uses[name] = append(files, file), make(map[string]map[string]bool)
	}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, errors.New("no export data")
		}
		return os.Open(exports[path])
	})}
	info := types.Info{Uses: make(map[*ast.Ident]types.Object)}
	pkg, err := config.Check("github.com/pghasql/hasql", fset, files, &info)
	if err != nil {
		t.Fatal(fmt.Errorf("type check: %w", err))
	}
	base := func(pos token.Pos) string { return filepath.Base(fset.Position(pos).Filename) }
	for ident, object := range info.Uses {
		if object.Pkg() != pkg {
			continue
		}
		user, used := base(ident.Pos()), base(object.Pos())
		if user == used {
			continue
		}
		if uses[user][used] == nil {
			uses[user][used] = make(map[string]bool)
		}
		uses[user][used][object.Name()] = true
	}
	return uses
}
