package hasqlhttp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgfake"
)

const token = "correct horse battery staple"

func newAdmin(t *testing.T, pm *hasql.PoolManager) http.Handler {
	t.Helper()
	h, err := Admin(pm, token)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// give gives an order with the token. header holds more names and values in turn.
func give(h http.Handler, form string, header ...string) *httptest.ResponseRecorder {
	return send(h, newOrder(form, header...))
}

func newOrder(form string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://shop-1.internal/hasql/admin", strings.NewReader(form))
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func send(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// expect checks the status of an answer and returns the error that it tells.
func expect(t *testing.T, what string, w *httptest.ResponseRecorder, status int) string {
	t.Helper()
	var answer struct{ Error string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%s: not JSON: %q, %v", what, w.Body, err)
	}
	if w.Code != status || (w.Code == 200) != (answer.Error == "") {
		t.Errorf("%s: %d %q, want %d", what, w.Code, answer.Error, status)
	}
	if w.Header().Get("Cache-Control") != "no-store" || strings.Contains(w.Body.String(), token) {
		t.Errorf("%s: the answer may be kept or holds the token", what)
	}
	return answer.Error
}

func TestAdminObeys(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN())
		ready(t, pm)
		h := newAdmin(t, pm)
		status := func(name string) string {
			n, _ := pm.Snapshot().Node(name)
			return n.Status.String() + " " + n.Role.String()
		}
		expect(t, "ban", give(h, "order=ban&node=pg2:5432&reason=disk&duration=1h"), 200)
		if got := status("pg2:5432"); got != "banned unknown" {
			t.Error(got)
		}
		if n := NewStatus(pm, nil).Nodes[1]; !strings.Contains(n.Cause, ": disk") {
			t.Error(n.Cause)
		}
		last := expect(t, "the last replica", give(h, "order=drain&node=pg3:5432"), 409)
		if !strings.Contains(last, "no other replica is up") || status("pg3:5432") != "up replica" {
			t.Errorf("%s; %s", last, status("pg3:5432"))
		}
		expect(t, "the last replica, by force", give(h, "order=drain&node=pg3:5432&force=true"), 200)
		if got := status("pg3:5432"); got != "banned unknown" {
			t.Error(got)
		}
		for _, node := range []string{"pg2", "pg3"} {
			expect(t, "unban", give(h, "order=unban&node="+node+":5432"), 200)
		}
		ready(t, pm)
		expect(t, "pause", give(h, "order=pause"), 200)
		if !pm.Snapshot().Paused() || !strings.Contains(get(Handler(pm), "/").Body.String(), "Writes are paused.") {
			t.Error("not paused")
		}
		expect(t, "resume", give(h, "order=resume"), 200)
		if pm.Snapshot().Paused() {
			t.Error("not resumed")
		}
		expect(t, "pause", give(h, "order=pause"), 200)
		time.Sleep(pauseDefault + 2*hasql.DefaultCheckInterval)
		if pm.Snapshot().Paused() {
			t.Error("a pause that nobody ended lasts for ever")
		}
		closeManager(t, pm)
		for _, order := range []string{"order=pause", "order=resume", "order=ban&node=pg2:5432"} {
			expect(t, "after Close: "+order, give(h, order), 503)
		}
	})
}

func TestAdminTellsHowManyConnectionsAreInUse(t *testing.T) {
	for _, order := range []string{"order=drain&node=pg1:5432&force=true", "order=pause&duration=1h"} {
		t.Run(order, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *pgfake.Cluster) {
				pm := open(t, c, c.DSN())
				ready(t, pm)
				lent, err := pm.AcquireMaster(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				h, began := newAdmin(t, pm), time.Now()
				text := expect(t, "in use", give(h, order+"&timeout=5s"), 504)
				if took := time.Since(began); !strings.Contains(text, "1 connections to ") || took != 5*time.Second {
					t.Errorf("after %v: %s", took, text)
				}
				gone, leave := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, leave)
				began = time.Now()
				send(h, newOrder(order).WithContext(gone))
				if took := time.Since(began); took != time.Second || pm.Snapshot().Paused() {
					t.Errorf("the client had gone after 1 s, the order after %v", took)
				}
				time.AfterFunc(time.Second, lent.Release)
				expect(t, "released", give(h, order), 200)
			})
		})
	}
}

func TestAdminRefusesWhoMayGiveNoOrders(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		var log bytes.Buffer
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		pm := open(t, c, c.DSN(), func(config *hasql.Config) {
			config.Logger = zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(&log)), zap.DebugLevel))
		})
		ready(t, pm)
		h := newAdmin(t, pm)
		const order = "order=ban&node=pg2:5432"
		for what, header := range map[string]string{
			"nothing": "", "the bare token": token, "no token": "Bearer ", "the start of the token": "Bearer " + token[:20],
			"more than the token": "Bearer " + token + "!", "another token": "Bearer " + strings.ToUpper(token), "another scheme": "Basic " + token,
		} {
			w := give(h, order, "Authorization", header)
			expect(t, what, w, 401)
			if w.Header().Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: %v", what, w.Header())
			}
		}
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			r := newOrder(order)
			r.Method = method
			w := send(h, r)
			expect(t, method, w, 405)
			if w.Header().Get("Allow") != "POST" {
				t.Errorf("%s: %v", method, w.Header())
			}
		}
		for what, header := range map[string][]string{
			"another site":                {"Sec-Fetch-Site", "cross-site"},
			"a sister site":               {"Sec-Fetch-Site", "same-site"},
			"another origin":              {"Origin", "https://evil.example"},
			"a page without an origin":    {"Origin", "null"},
			"another port of the service": {"Origin", "https://shop-1.internal:8443"},
		} {
			expect(t, what, give(h, order, header...), 403)
		}
		if n, _ := pm.Snapshot().Node("pg2:5432"); n.Status != hasql.StatusUp {
			t.Errorf("somebody banned it: %v", n)
		}
		expect(t, "its own site", give(h, order, "Sec-Fetch-Site", "same-origin", "Origin", "https://shop-1.internal"), 200)
		closeManager(t, pm) // ends the log
		if strings.Contains(log.String(), token) || !strings.Contains(log.String(), "node was banned") {
			t.Errorf("the log holds the token, or no order: %s", log.String())
		}
	})
}

func TestAdminRefusesWhatMakesNoSense(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN())
		ready(t, pm)
		h := newAdmin(t, pm)
		for form, said := range map[string]string{
			"":                                                  "order must be",
			"order=dance":                                       `not "dance"`,
			"order=ban":                                         "ban needs a node",
			"order=ban&node=":                                   "ban needs a node",
			"order=ban&node=pg2:5432&for=1h":                    `"for": ban does not take it`,
			"order=ban&node=pg2:5432&timeout=1s":                `"timeout": ban does not take it`,
			"order=ban&node=pg2:5432&node=pg3:5432":             `"node": there must be one`,
			"order=ban&node=pg2:5432&duration=1":                "missing unit",
			"order=ban&node=pg2:5432&duration=-1s":              "must be positive",
			"order=ban&node=pg2:5432&force=perhaps":             "invalid syntax",
			"order=pause&duration=0s":                           "must be positive",
			"order=drain&node=pg2:5432&timeout=2h":              "at most 1h",
			"order=resume&node=pg2:5432":                        "resume does not take it",
			"order=ban;node=pg2:5432":                           "is no form",
			"order=ban&reason=" + strings.Repeat("x", maxOrder): "could not be read",
		} {
			if text := expect(t, form, give(h, form), 400); !strings.Contains(text, said) {
				t.Errorf("%.40s: %s", form, text)
			}
		}
		expect(t, "JSON", give(h, `{"order":"pause"}`, "Content-Type", "application/json"), 400)
		r := newOrder("order=pause")
		r.URL.RawQuery = "duration=1h"
		expect(t, "an order in the URL", send(h, r), 400)
		if text := expect(t, "unknown", give(h, "order=ban&node=pg9:5432"), 404); text != `there is no node "pg9:5432"` {
			t.Error(text)
		}
		for n := range pm.Snapshot().Nodes() {
			if n.Status != hasql.StatusUp || pm.Snapshot().Paused() {
				t.Errorf("%v", n)
			}
		}
		for _, weak := range []string{"", "secret"} {
			if h, err := Admin(pm, weak); h != nil || err == nil || weak != "" && strings.Contains(err.Error(), weak) {
				t.Errorf("a token of %d characters: %v", len(weak), err)
			}
		}
	})
}

// A service's server has time limits for short answers. An order that waits outlives them.
func TestAdminWaitsLongerThanTheServersLimits(t *testing.T) {
	bubble(t, func(t *testing.T, c *pgfake.Cluster) {
		pm := open(t, c, c.DSN())
		ready(t, pm)
		lent, err := pm.AcquireMaster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		listener := pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: newAdmin(t, pm), ReadTimeout: time.Second, WriteTimeout: time.Second}
		ended := make(chan error)
		go func() { ended <- server.Serve(listener) }()
		defer func() {
			_ = server.Close()
			<-ended
		}()
		client, conn := net.Pipe()
		defer client.Close()
		listener.conns <- conn
		time.AfterFunc(10*time.Second, lent.Release)
		const order = "order=pause"
		go fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
			"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", token, len(order), order)
		began := time.Now()
		response, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if took := time.Since(began); response.StatusCode != 200 || err != nil || took < 10*time.Second {
			t.Errorf("after %v: %s %s %v", took, response.Status, body, err)
		}
	})
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	close(p.closed)
	return nil
}

func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
