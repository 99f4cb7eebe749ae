package promhasql

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// names returns the names of all metrics, without those of the parts of a histogram.
func names(t *testing.T) (names []string) {
	t.Helper()
	for _, d := range all {
		name := regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())
		if name == nil {
			t.Fatalf("no name in %s", d)
		}
		names = append(names, name[1])
	}
	return names
}

var metric = regexp.MustCompile(`\bhasql_[a-z_]+`)

// unknown returns the names in a text that no metric has.
func unknown(t *testing.T, text string) (unknown []string) {
	t.Helper()
	known := names(t)
	for _, name := range metric.FindAllString(text, -1) {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count"), "_bucket")
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestFilesNameMetricsThatExist(t *testing.T) {
	for _, path := range []string{"alerts.yml", "alerts_test.yml", "dashboard.json"} {
		content := read(t, path)
		if !metric.MatchString(content) {
			t.Errorf("%s names no metric", path)
		}
		if wrong := unknown(t, content); len(wrong) > 0 {
			t.Errorf("%s names %q, which do not exist", path, wrong)
		}
	}
}

func TestPageListsEveryMetric(t *testing.T) {
	page := read(t, "../docs/metrics.md")
	for _, name := range names(t) {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	if wrong := unknown(t, page); len(wrong) > 0 {
		t.Errorf("docs/metrics.md names %q, which do not exist", wrong)
	}
}

// Prometheus' own tool reads the rules and runs their tests. It is in Debian's package prometheus.
func TestAlertsPassPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		if output, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, output)
		}
	}
}

// panel is what every panel of a dashboard needs: Grafana drops one without a type or a place without a word.
type panel struct {
	ID         int
	Type       string
	Title      string
	Datasource struct{ Type, UID string }
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct{ RefID, Expr string }
}

func (p *panel) overlaps(o *panel) bool {
	a, b := p.GridPos, o.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func TestDashboardIsComplete(t *testing.T) {
	var dashboard struct {
		UID, Title    string
		SchemaVersion int
		Time          struct{ From, To string }
		Templating    struct{ List []struct{ Name, Type string } }
		Panels        []panel
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if d := dashboard; d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || d.Time.From == "" || d.Time.To == "" || len(d.Panels) == 0 {
		t.Errorf("something is missing: %+v", d)
	}
	variables := []string{"__range", "__rate_interval"} // Grafana's own
	for _, v := range dashboard.Templating.List {
		if v.Name == "" || v.Type == "" {
			t.Errorf("a variable lacks something: %+v", v)
		}
		variables = append(variables, v.Name)
	}
	for i, p := range dashboard.Panels {
		if p.ID == 0 || p.Type == "" || p.Title == "" || p.Datasource.Type != "prometheus" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("a panel lacks something: %+v", p)
		}
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s is outside the grid: %+v", p.Title, g)
		}
		for _, o := range dashboard.Panels[:i] {
			if o.ID == p.ID || o.overlaps(&p) {
				t.Errorf("%s and %s have one id or one place", o.Title, p.Title)
			}
		}
		for _, target := range p.Targets {
			if target.RefID == "" || !metric.MatchString(target.Expr) {
				t.Errorf("%s asks for %+v", p.Title, target)
			}
			for _, v := range regexp.MustCompile(`\$([a-z_]+)`).FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, v[1]) {
					t.Errorf("%s uses the variable %s, which does not exist", p.Title, v[1])
				}
			}
		}
	}
}
