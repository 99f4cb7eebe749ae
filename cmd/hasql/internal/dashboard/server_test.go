package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeSource is a Source for tests.
type fakeSource struct {
	mu    sync.Mutex
	state State
	bins  *Bins
	done  []string
}

func newFakeSource() *fakeSource {
	return &fakeSource{bins: NewBins(1), state: State{
		Run: "this", Phase: Running, Owned: true, Actions: []string{"switchover"},
		Nodes: []Node{{Name: "pg1", Role: "master", Status: "up", Timeline: 3, Lag: new(Millis), Actions: []string{"crash"}}},
		Outages: []Outage{{
			Kind: "crash", From: "pg1", To: "pg2", Began: Millis(time.Second), Ended: Millis(1362 * time.Millisecond), Length: Millis(362 * time.Millisecond),
		}},
		Events: []Event{},
	}}
}

func (f *fakeSource) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Events = append([]Event{}, s.Events...)
	return s
}

func (f *fakeSource) Timeline(from int) Timeline {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bins.From(from)
}

func (f *fakeSource) Do(action, node string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch action {
	case "crash":
		f.done = append(f.done, action+" "+node)
		return nil
	case "explode":
		return errors.New("boom")
	}
	return fmt.Errorf("%s: %w", action, ErrRefused)
}

func (f *fakeSource) change(change func(*fakeSource)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func TestOnlyAPageOfThisRunMayAct(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.1:8080"
	own := http.Header{"Hasql-Run": {"this"}, "Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://" + host}}
	with := func(name, value string) http.Header {
		h := own.Clone()
		h.Del(name)
		if value != "" {
			h.Set(name, value)
		}
		return h
	}
	oldBrowser := func(origin string) http.Header {
		h := with("Sec-Fetch-Site", "")
		h.Set("Origin", origin)
		return h
	}
	tests := map[string]struct {
		method, host, action string
		header               http.Header
		want                 int
	}{
		"our page":                       {"POST", host, "crash", own, http.StatusAccepted},
		"our page under the other name":  {"POST", "localhost:8080", "crash", own, http.StatusAccepted},
		"our page in an old browser":     {"POST", host, "crash", oldBrowser("http://" + host), http.StatusAccepted},
		"not on offer":                   {"POST", host, "dance", own, http.StatusConflict},
		"it fails":                       {"POST", host, "explode", own, http.StatusInternalServerError},
		"another site":                   {"POST", host, "crash", with("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		"another port of this machine":   {"POST", host, "crash", with("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		"another site in an old browser": {"POST", host, "crash", oldBrowser("http://evil.example"), http.StatusForbidden},
		"a sandboxed frame":              {"POST", host, "crash", oldBrowser("null"), http.StatusForbidden},
		"a foreign name for our address": {"POST", "evil.example:8080", "crash", own, http.StatusForbidden},
		"a page of an earlier run":       {"POST", host, "crash", with("Hasql-Run", "earlier"), http.StatusForbidden},
		"a form":                         {"POST", host, "crash", with("Hasql-Run", ""), http.StatusForbidden},
		"a link":                         {"GET", host, "crash", own, http.StatusNotFound},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := newFakeSource()
			form := url.Values{"action": {test.action}, "node": {"pg1"}}
			request := httptest.NewRequest(test.method, "http://"+test.host+"/api/action", strings.NewReader(form.Encode()))
			request.Header = test.header.Clone()
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			answer := httptest.NewRecorder()
			Handler(source).ServeHTTP(answer, request)
			if answer.Code != test.want {
				t.Errorf("status %d, want %d: %s", answer.Code, test.want, answer.Body)
			}
			if acted := len(source.done) == 1; acted != (test.want == http.StatusAccepted) {
				t.Errorf("done: %q", source.done)
			}
		})
	}
}

func TestForeignNamesGetNothingOfAClusterThatCanBeBroken(t *testing.T) {
	t.Parallel()
	for _, owned := range []bool{true, false} {
		source := newFakeSource()
		source.state.Owned = owned
		answer := httptest.NewRecorder()
		Handler(source).ServeHTTP(answer, httptest.NewRequest("GET", "http://demo.example/api/state", nil))
		if refused := answer.Code == http.StatusForbidden; refused != owned {
			t.Errorf("owned %v: status %d", owned, answer.Code)
		}
	}
}

func TestStateIsPlainJSON(t *testing.T) {
	t.Parallel()
	answer := httptest.NewRecorder()
	Handler(newFakeSource()).ServeHTTP(answer, httptest.NewRequest("GET", "http://localhost/api/state", nil))
	if got := answer.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	var got map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	node := got["nodes"].([]any)[0].(map[string]any)
	if node["lag_ms"] != 0.0 || node["evidence_age_ms"] != nil || node["timeline"] != 3.0 {
		t.Errorf("node: %v", node)
	}
	outage := got["outages"].([]any)[0].(map[string]any)
	if outage["outage_ms"] != 362.0 || outage["began_ms"] != 1000.0 || outage["cluster_outage_ms"] != nil {
		t.Errorf("outage: %v", outage)
	}
}

func TestMillisAreRoundedAndSpelled(t *testing.T) {
	t.Parallel()
	tests := []struct {
		d          time.Duration
		json, text string
	}{
		{0, "0", "0.0 ms"},
		{8123456, "8.1", "8.1 ms"},
		{99949 * time.Microsecond, "99.9", "99.9 ms"},
		{362400 * time.Microsecond, "362.4", "362 ms"},
	}
	for _, test := range tests {
		if got := encoded(t, Millis(test.d)); got != test.json {
			t.Errorf("%v: %s, want %s", test.d, got, test.json)
		}
		if got := Millis(test.d).String(); got != test.text {
			t.Errorf("%v: %q, want %q", test.d, got, test.text)
		}
	}
}

func TestPageIsWholeAndNeedsNobodyElse(t *testing.T) {
	t.Parallel()
	handler := Handler(newFakeSource())
	for _, path := range []string{"/", "/style.css", "/app.js", "/chart.js", "/icon.svg"} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest("GET", "http://localhost"+path, nil))
		if answer.Code != http.StatusOK || answer.Body.Len() == 0 {
			t.Errorf("%s: status %d, %d bytes", path, answer.Code, answer.Body.Len())
		}
		if text := strings.ReplaceAll(answer.Body.String(), `xmlns="http://www.w3.org/2000/svg"`, ""); strings.Contains(text, "//www.") || strings.Contains(text, "https:") {
			t.Errorf("%s refers to another site", path)
		}
		if policy := answer.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'self'") {
			t.Errorf("%s: policy %q", path, policy)
		}
	}
}

func TestHealthIsThatTheWorkloadRuns(t *testing.T) {
	t.Parallel()
	for phase, want := range map[string]int{Starting: 503, Running: 200, Ended: 503} {
		source := newFakeSource()
		source.state.Phase = phase
		answer := httptest.NewRecorder()
		Handler(source).ServeHTTP(answer, httptest.NewRequest("GET", "http://localhost/healthz", nil))
		if answer.Code != want {
			t.Errorf("%s: status %d, want %d", phase, answer.Code, want)
		}
	}
}

func TestServeEndsWithItsContextThoughStreamsAreOpen(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	source := newFakeSource()
	go func() { ended <- Serve(ctx, listener, source) }()
	response, err := http.Get("http://" + listener.Addr().String() + "/api/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	source.change(func(f *fakeSource) { f.state.Phase = Ended })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	frames := strings.Split(strings.TrimSpace(string(body)), "\n\n")
	if last := frames[len(frames)-1]; !strings.Contains(last, `"phase":"ended"`) {
		t.Errorf("the last frame does not tell of the end: %s", last)
	}
}
