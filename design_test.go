package hasql

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDesignMapsEveryFile keeps the file map of DESIGN.md true, in both directions.
func TestDesignMapsEveryFile(t *testing.T) {
	design, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(design), "## File map")
	section, _, _ = strings.Cut(section, "\n## ")
	var mapped []string
	for row := range strings.SplitSeq(section, "\n") {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
			mapped = append(mapped, name[1])
			if _, err := os.Stat(name[1]); err != nil {
				t.Errorf("%s is on the map and not there", name[1])
			}
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Glob("*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		files = append(files, filepath.Dir(m)+"/")
	}
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") && !slices.Contains(mapped, f) {
			t.Errorf("%s is not on the map", f)
		}
	}
}

// TestBinariesAreIgnored keeps what "go build" leaves in the folder of a command from being committed.
func TestBinariesAreIgnored(t *testing.T) {
	content, err := os.ReadFile(".gitignore")
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Split(string(content), "\n")
	for _, pattern := range []string{"main.go", "*/main.go", "*/*/main.go", "*/*/*/main.go"} {
		commands, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			dir := filepath.ToSlash(filepath.Dir(c))
			if binary := "/" + dir + "/" + path.Base(dir); !slices.Contains(ignored, binary) {
				t.Errorf("%s is not in .gitignore", binary)
			}
		}
	}
}

// TestFailuresAreShown keeps the tests that docs/failures.md names from being lost.
func TestFailuresAreShown(t *testing.T) {
	page, err := os.ReadFile("docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "stdlib/*_test.go", "hasqlhttp/*_test.go", "internal/*/*_test.go", "integration/*_test.go", "integration/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(content)
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) == 0 {
		t.Error("no test is named")
	}
	for _, name := range named {
		if !strings.Contains(tests.String(), "func "+name[1]+"(") {
			t.Errorf("there is no %s", name[1])
		}
	}
}

// TestSQLSTATEsStandInOneTable keeps bare SQLSTATEs out of the library: internal/pgerr has a name for each.
func TestSQLSTATEsStandInOneTable(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`"(?:[0-9A-Z]*[0-9][0-9A-Z]*|XX)"`)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, literal := range code.FindAllString(string(content), -1) {
			if length := len(literal) - len(`""`); length == 5 || length == 2 {
				t.Errorf("%s has the SQLSTATE or class %s; see internal/pgerr/code.go", f, literal)
			}
		}
	}
}
