package hasqlhttp

import (
	"context"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
	"github.com/pghasql/hasql/internal/testenv"
)

func TestMain(m *testing.M) {
	// The example needs a cluster whose nodes are all down.
	os.Setenv("DATABASE_URL", "postgres://app@127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/shop")
	goleak.VerifyTestMain(m)
}

// bubble runs a test against three nodes in memory, in virtual time: pg1 is the master.
func bubble(t *testing.T, test func(t *testing.T, c *pgfake.Cluster)) {
	t.Helper()
	testenv.Bubble(t, func(t *testing.T) {
		c := pgfake.New("pg1", "pg2", "pg3")
		t.Cleanup(c.Close)
		test(t, c)
	})
}

// checker asks the node only for its name, which fails if the node is down, and takes the rest from the fake.
func checker(c *pgfake.Cluster) hasql.Checker {
	return hasql.CheckerFunc(func(ctx context.Context, conn *pgx.Conn) (hasql.Report, error) {
		var name string
		if err := conn.QueryRow(ctx, "read").Scan(&name); err != nil {
			return hasql.Report{}, err
		}
		n := c.Node(name).State()
		report := hasql.Report{
			Role: hasql.RoleMaster, InRecovery: n.InRecovery, Timeline: uint32(n.Timeline), LSN: hasql.LSN(n.LSN),
			SystemID: uint64(n.SystemID), StartTime: n.StartTime,
		}
		if n.InRecovery {
			report.Role, report.ReplayDelay = hasql.RoleReplica, time.Since(n.ReplayedAt)
		}
		return report, nil
	})
}

// open makes a PoolManager that the end of the test closes.
func open(t *testing.T, c *pgfake.Cluster, dsn string, edit ...func(*hasql.Config)) *hasql.PoolManager {
	t.Helper()
	config, err := hasql.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.Checker = checker(c)
	for _, n := range config.Nodes {
		n.Pool.ConnConfig.DialFunc, n.Pool.ConnConfig.LookupFunc = c.Dial, c.Lookup
	}
	for _, e := range edit {
		e(config)
	}
	pm, err := hasql.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeManager(t, pm) })
	return pm
}

func closeManager(t *testing.T, pm *hasql.PoolManager) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := pm.Close(ctx); err != nil {
		t.Error(err)
	}
}

func ready(t *testing.T, pm *hasql.PoolManager) {
	t.Helper()
	if err := pm.Ready(t.Context(), 1, 2); err != nil {
		t.Fatal(err)
	}
}

// get sends a request to a handler. header holds names and values in turn.
func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// element is a part of a page.
type element struct {
	name     string
	attr     map[string]string
	text     string // its own and that of its children, words divided by single spaces
	children []*element
}

// parse reads a page. A page that is not well-formed fails the test.
func parse(t *testing.T, page string) *element {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(page))
	decoder.Strict, decoder.AutoClose, decoder.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	root := &element{}
	open := []*element{root}
	for {
		token, err := decoder.Token()
		if token == nil {
			if len(open) != 1 {
				t.Fatalf("the page ends within %s: %v", open[len(open)-1].name, err)
			}
			return root
		}
		last := open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{name: token.Name.Local, attr: make(map[string]string)}
			for _, a := range token.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			last.children = append(last.children, e)
			open = append(open, e)
		case xml.EndElement:
			last.text = strings.Join(strings.Fields(last.text), " ")
			open = open[:len(open)-1]
		case xml.CharData:
			for _, e := range open {
				e.text += string(token)
			}
		}
	}
}

// all returns the elements of a name below e, in the order of the page.
func (e *element) all(name string) (list []*element) {
	for _, child := range e.children {
		if child.name == name {
			list = append(list, child)
		}
		list = append(list, child.all(name)...)
	}
	return list
}

// rows returns the cells of each row in the body of the table of an id, by the heading of their column.
func (e *element) rows(t *testing.T, id string) (rows []map[string]string) {
	t.Helper()
	for _, table := range e.all("table") {
		if table.attr["id"] != id {
			continue
		}
		var headings []string
		for _, th := range table.all("thead")[0].all("th") {
			headings = append(headings, th.text)
		}
		for _, tr := range table.all("tbody")[0].all("tr") {
			cells := make(map[string]string)
			for i, cell := range tr.children {
				cells[headings[i]] = cell.text
				if label := cell.attr["data-label"]; i > 0 && label != headings[i] {
					t.Errorf("a cell below %q is labelled %q on narrow screens", headings[i], label)
				}
			}
			rows = append(rows, cells)
		}
		return rows
	}
	t.Fatalf("there is no table %q", id)
	return nil
}
