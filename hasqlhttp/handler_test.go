package hasqlhttp

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
)

func TestFormatAndRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		h := Handler(open(t, c, c.DSN()))
		const page, document, text = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
		for _, test := range []struct {
			target, accept string
			status         int
			contentType    string
			refresh        string // of the page
		}{
			{"/", "", 200, page, ""},
			{"/", "text/html,application/xhtml+xml,*/*;q=0.8", 200, page, ""},
			{"/", "application/json", 200, document, ""},
			{"/", "text/html, application/json", 200, page, ""},
			{"/any/path?format=json", "text/html", 200, document, ""},
			{"/?format=html", "application/json", 200, page, ""},
			{"/?format=xml", "", 400, text, ""},
			{"/?refresh=5", "", 200, page, "5"},
			{"/?refresh=0", "", 400, text, ""},
			{"/?refresh=3601", "", 400, text, ""},
			{"/?refresh=5%3Burl=http://elsewhere", "", 400, text, ""},
			{"/?refresh=", "", 400, text, ""},
		} {
			answer := get(h, test.target, "Accept", test.accept)
			if answer.Code != test.status || answer.Header().Get("Content-Type") != test.contentType {
				t.Errorf("%s with Accept %q: %d %s", test.target, test.accept, answer.Code, answer.Header().Get("Content-Type"))
			}
			if test.contentType != page {
				continue
			}
			refresh := ""
			for _, meta := range parse(t, answer.Body.String()).all("meta") {
				if meta.attr["http-equiv"] == "refresh" {
					refresh = meta.attr["content"]
				}
			}
			if refresh != test.refresh {
				t.Errorf("%s refreshes after %q", test.target, refresh)
			}
		}
	})
}

func TestEveryAnswerIsSafe(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN())
		for name, h := range map[string]http.Handler{"Handler": Handler(pm), "Ready": Ready(pm, 1, 0), "Live": Live(pm)} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(method, "/", strings.NewReader("x")))
				allowed := method == "GET" || method == "HEAD"
				if refused := w.Code == http.StatusMethodNotAllowed && w.Header().Get("Allow") == "GET, HEAD"; refused == allowed {
					t.Errorf("%s answers %s by %d", name, method, w.Code)
				}
				for key, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
					if got := w.Header().Get(key); got != want {
						t.Errorf("%s, %s: %s is %q", name, method, key, got)
					}
				}
				if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
					t.Errorf("%s, %s: %s", name, method, policy)
				}
			}
		}
	})
}

func TestHEADHasNoBody(t *testing.T) {
	// This needs a real server, because net/http removes the body, not the handler.
	pm, err := hasql.New(t.Context(), "postgres://app@127.0.0.1:1/shop")
	if err != nil {
		t.Fatal(err)
	}
	defer closeManager(t, pm)
	server := httptest.NewServer(Handler(pm))
	defer server.Close()
	response, err := server.Client().Head(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); response.StatusCode != 200 || len(body) > 0 || err != nil {
		t.Errorf("HEAD: %s, %q, %v", response.Status, body, err)
	}
}

func TestNoAnswerHoldsASecret(t *testing.T) {
	for _, refusal := range []struct{ code, message, shown string }{
		{"28P01", `password authentication failed for user "quentin"`, "refused the login (SQLSTATE 28P01)"},
		{"28000", `no pg_hba.conf entry for host "10.0.0.9", user "quentin", database "vault"`, "refused the login (SQLSTATE 28000)"},
		{"3D000", `database "vault" does not exist`, "no such database (SQLSTATE 3D000)"},
		{"53300", `too many connections for role "quentin"`, "short of resources (SQLSTATE 53300)"},
		{"42501", `permission denied for database "vault"`, "reported an error (SQLSTATE 42501)"},
		{"57P03", "the database system is starting up", "the database system is starting up (SQLSTATE 57P03)"},
	} {
		bubble(t, func(t *testing.T, c *pgfake.Cluster) {
			for _, n := range c.Nodes() {
				n.RefuseLogin(refusal.code, refusal.message)
			}
			var history History
			dsn := strings.NewReplacer("app:secret", "quentin:hush", "/app", "/vault").Replace(c.DSN())
			pm := open(t, c, dsn, func(c *hasql.Config) { c.Hooks = history.Hooks(c.Hooks) })
			time.Sleep(time.Second)
			h := Handler(pm, WithHistory(&history))
			for name, text := range map[string]string{
				"page":  get(h, "/").Body.String(),
				"JSON":  get(h, "/?format=json").Body.String(),
				"Ready": get(Ready(pm, 1, 0), "/").Body.String(),
			} {
				if !strings.Contains(text, refusal.shown) {
					t.Errorf("%s: %s does not tell why: %s", refusal.code, name, text)
				}
				for _, secret := range []string{"quentin", "hush", "vault", "10.0.0.9"} {
					if strings.Contains(text, secret) {
						t.Errorf("%s: %s holds %q", refusal.code, name, secret)
					}
				}
			}
		})
	}
}

// TestJSONShape fails at every change that would break a reader of the document.
func TestJSONShape(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var history History
		pm := open(t, c, c.DSN()+"&pool_max_conns=4", func(c *hasql.Config) { c.Hooks = history.Hooks(c.Hooks) })
		ready(t, pm)
		c.Node("pg3").PauseReplay()
		if _, err := pm.Master().Exec(t.Context(), "write x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		var document map[string]any
		if err := json.Unmarshal(get(Handler(pm, WithHistory(&history)), "/?format=json").Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		keys := func(value any) string { return strings.Join(slices.Sorted(maps.Keys(value.(map[string]any))), " ") }
		nodes, targets := document["nodes"].([]any), document["targets"].(map[string]any)
		master, replica := nodes[0].(map[string]any), nodes[2].(map[string]any)
		for what, pair := range map[string][2]string{
			"document": {keys(document), "at closed masters no_master_seconds nodes paused replicas targets transitions"},
			"node": {keys(master), "acquires cause evidence_age_seconds lag_bytes lag_seconds latency_seconds lsn name pool role since " +
				"status timeline zone"},
			"pool":     {keys(master["pool"]), "idle in_use max opening waiting"},
			"acquires": {keys(master["acquires"]), "any master prefer_replica replica"},
			"targets":  {keys(targets), "any master prefer_replica replica"},
			"target":   {keys(targets["master"]), "acquires failures wait_seconds waiting waits"},
			"transition": {
				keys(document["transitions"].([]any)[0]),
				"at cause no_master_seconds node role status was_role was_status",
			},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s has %s\nand should have %s", what, pair[0], pair[1])
			}
		}
		for what, pair := range map[string][2]any{
			"closed": {document["closed"], false}, "masters": {document["masters"], 1.0}, "replicas": {document["replicas"], 2.0},
			"no_master_seconds": {document["no_master_seconds"], nil},
			"name":              {master["name"], "pg1:5432"}, "role": {master["role"], "master"}, "status": {master["status"], "up"},
			"timeline": {master["timeline"], 1.0}, "lsn": {master["lsn"], hasql.LSN(c.Node("pg1").State().LSN).String()},
			"idle":           {master["pool"].(map[string]any)["idle"], 1.0},
			"acquires":       {master["acquires"].(map[string]any)["master"], 1.0},
			"target":         {targets["master"].(map[string]any)["acquires"], 1.0},
			"bytes of lag":   {replica["lag_bytes"], 100.0}, // of the write that was not replayed
			"seconds of lag": {replica["lag_seconds"].(float64) > 0, true},
			"age":            {master["evidence_age_seconds"].(float64) < 1.7, true},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s is %v, not %v", what, pair[0], pair[1])
			}
		}
		if at, err := time.Parse(time.RFC3339, document["at"].(string)); err != nil || !at.Equal(time.Now()) {
			t.Errorf("at is %v, %v", document["at"], err)
		}
	})
}

func TestJSONIsNullWhereNothingIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		for _, n := range c.Nodes() {
			n.Kill()
		}
		pm := open(t, c, c.DSN())
		time.Sleep(1500 * time.Millisecond)
		var document struct {
			NoMaster    float64 `json:"no_master_seconds"`
			Transitions any
			Nodes       []map[string]any
		}
		if err := json.Unmarshal(get(Handler(pm), "/?format=json").Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		if document.NoMaster != 1.5 || document.Transitions != nil {
			t.Errorf("no master for %v s, transitions %v", document.NoMaster, document.Transitions)
		}
		for _, key := range []string{"timeline", "lsn", "lag_bytes", "lag_seconds", "latency_seconds", "evidence_age_seconds"} {
			if value, there := document.Nodes[0][key]; !there || value != nil {
				t.Errorf("%s of a node that never answered is %v", key, value)
			}
		}
	})
}

// TestPageShowsTheExample keeps the program in docs/hasqlhttp.md the same as the example, which is compiled and run.
func TestPageShowsTheExample(t *testing.T) {
	page, err := os.ReadFile("../docs/hasqlhttp.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, program, _ := strings.Cut(string(page), "```go\n")
	program, _, ok := strings.Cut(program, "```")
	if !ok || !strings.Contains(string(example), program) {
		t.Errorf("not in the example:\n%s", program)
	}
}
