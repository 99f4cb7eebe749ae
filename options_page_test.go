package hasql

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/dsn"
)

// TestOptionsPageHasEveryOption keeps docs/options.md complete: every key of a DSN, every field of Config, every balancer and
// every option of a route. Keys that are accepted only to be refused in other values are left out.
func TestOptionsPageHasEveryOption(t *testing.T) {
	page := readText(t, "docs/options.md")
	want := slices.Concat(slices.Collect(maps.Keys(settings)), dsn.PoolKeys, slices.Collect(maps.Keys(balancers)), slices.Collect(maps.Keys(sessionTargets)))
	for field := range reflect.TypeFor[Config]().Fields() {
		if field.IsExported() && field.Name != "Nodes" {
			want = append(want, field.Name)
		}
	}
	for _, function := range regexp.MustCompile(`(?m)^func (\w+)\([^)]*\) RouteOption`).FindAllStringSubmatch(readText(t, "route.go"), -1) {
		want = append(want, function[1])
	}
	for _, word := range want {
		onlyOff := word == "gssencmode" || word == "sslcompression"
		if !onlyOff && !regexp.MustCompile("`"+regexp.QuoteMeta(word)+"[`(=]").MatchString(page) {
			t.Errorf("docs/options.md does not have %s: add a row", word)
		}
	}
}

// TestOptionTablesHaveTheDefaults compares the defaults of durations in the tables of options with those of the code.
func TestOptionTablesHaveTheDefaults(t *testing.T) {
	defaults, err := ParseConfig("postgres://app@pg1/shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"docs/options.md", "README.md"} {
		compared := 0
		header := []string(nil)
		for line := range strings.Lines(readText(t, file)) {
			cells := strings.Split(strings.TrimSpace(line), "|")
			if len(cells) < 5 {
				header = nil
				continue
			}
			for i := range cells {
				cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
			}
			if header == nil {
				header = cells
				continue
			}
			column := slices.Index(header, "default")
			field := reflect.ValueOf(*defaults).FieldByName(cells[1])
			if column < 0 || !field.IsValid() || field.Type() != reflect.TypeFor[time.Duration]() {
				continue
			}
			compared++
			text, _, _ := strings.Cut(cells[column], ":")
			if got, err := time.ParseDuration(text); err != nil || got != time.Duration(field.Int()) {
				t.Errorf("%s: the default of %s is %s, not %s", file, cells[1], time.Duration(field.Int()), cells[column])
			}
		}
		if compared < 4 {
			t.Errorf("%s: only %d defaults were compared", file, compared)
		}
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
