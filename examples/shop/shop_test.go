package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// shop is an instance under test.
type shop struct {
	t     *testing.T
	url   string
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of run, once it ended
}

func startCluster(t *testing.T) *pgcluster.Cluster {
	t.Helper()
	c, err := pgcluster.Start(t.Context(), pgcluster.Options{Replicas: 2})
	if errors.Is(err, pgcluster.ErrNoPostgres) && os.Getenv("HASQL_REQUIRE_POSTGRES") != "1" {
		t.Skipf("skipped, because PostgreSQL is missing: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func open(t *testing.T, c *pgcluster.Cluster) *shop {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	s := &shop{t: t, url: "http://" + listener.Addr().String(), stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = run(ctx, c.DSN(), listener, zaptest.NewLogger(t))
	}()
	t.Cleanup(func() {
		stop()
		<-s.ended
		must(t, s.err)
	})
	return s
}

// do sends a request and returns the answer's status and body.
func (s *shop) do(ctx context.Context, method, path, body string) (int, string, http.Header) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	must(s.t, err)
	request.Header.Set("Expect", "100-continue") // the server answers this when a handler reads the body
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
		return 0, "", nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(s.t, err)
	return answer.StatusCode, string(text), answer.Header
}

const shirt = `{"brand": "Acme", "name": "T-shirt", "skus": [{"size": "M", "colour": "red", "stock": 3}, {"size": "L", "colour": "blue", "stock": 1}]}`

func TestShop(t *testing.T) {
	c := startCluster(t)
	s, other := open(t, c), open(t, c) // both start before the tables exist
	ctx := t.Context()

	status, body, header := s.do(ctx, "POST", "/products", shirt)
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	var p product
	status, body, _ = other.do(ctx, "GET", header.Get("Location"), "")
	must(t, json.Unmarshal([]byte(body), &p))
	if status != http.StatusOK || p.Brand != "Acme" || p.Name != "T-shirt" || len(p.SKUs) != 2 || p.SKUs[1].Colour != "blue" {
		t.Fatalf("%d %s", status, body)
	}
	red := fmt.Sprintf("/skus/%d/sell?pieces=", p.SKUs[0].ID)
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/products", "", 200, "T-shirt"},
		{"GET", "/products?brand=Acme", "", 200, "T-shirt"},
		{"GET", "/products?brand=Other", "", 200, "[]"},
		{"GET", "/products/4711", "", 404, "no such item"},
		{"GET", "/products/x", "", 400, "number"},
		{"GET", "/products/1?written=x", "", 400, "LSN"},
		{"POST", "/products", shirt, 409, "already"},
		{"POST", "/products", "{}", 400, "looks like"},
		{"POST", "/products", strings.Replace(strings.Replace(shirt, "T-shirt", "Hat", 1), "3", "-1", 1), 422, "invalid"},
		{"POST", red + "2", "", 200, `{"left":1}`},
		{"POST", red + "2", "", 404, "too few"},
		{"POST", red + "0", "", 400, "pieces"},
		{"GET", "/livez", "", 200, "live"},
		{"GET", "/readyz", "", 200, "ready"},
		{"GET", "/hasql?format=json", "", 200, `"master"`},
		{"GET", "/metrics", "", 200, `hasql_node_up{node="` + c.Nodes()[0].Addr() + `",role="master"} 1`},
		{"DELETE", "/products/1", "", 405, ""},
	} {
		status, body, _ := s.do(ctx, test.method, test.path, test.body)
		if status != test.status || !strings.Contains(body, test.answer) {
			t.Errorf("%s %s: %d %s", test.method, test.path, status, body)
		}
	}
}

// A running request is answered although the master dies and the service is asked to stop.
func TestRequestOutlivesFailoverAndStop(t *testing.T) {
	c := startCluster(t)
	s := open(t, c)
	ctx := t.Context()
	if status, body, _ := s.do(ctx, "POST", "/products", shirt); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	must(t, c.Nodes()[1].WaitStreaming(ctx, c.Nodes()[0]))
	must(t, c.Nodes()[0].Kill())

	begun := make(chan struct{})
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got100Continue: func() { close(begun) }})
	answered := make(chan int)
	go func() {
		status, _, _ := s.do(traced, "POST", "/products", strings.Replace(shirt, "T-shirt", "Hat", 1))
		answered <- status
	}()
	<-begun
	s.stop()
	must(t, c.Nodes()[1].Promote(ctx))
	if status := <-answered; status != http.StatusCreated {
		t.Errorf("status %d", status)
	}
}

func TestStartThatMakesNoSense(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	err = run(t.Context(), "postgres://app:hush@pg1/shop?hasql_balancer=best", listener, zaptest.NewLogger(t))
	if err == nil || !strings.Contains(err.Error(), "hasql_balancer=best") || strings.Contains(err.Error(), "hush") {
		t.Error(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	if err := run(ctx, "postgres://app@127.0.0.1:1/shop", listener, zaptest.NewLogger(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
