package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	c, err := Start(ctx, Options{Members: 3, Logf: t.Logf})
	if errors.Is(err, ErrMissing) && os.Getenv("HASQL_REQUIRE_PATRONI") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { b := time.Now(); t.Log(c.Close(), time.Since(b)) }()
	for _, m := range c.Members() {
		_, b, err := request(ctx, http.MethodGet, m.url("/patroni"), nil)
		t.Log(string(b), err)
		_ = json.Valid
	}
	_, b, err := request(ctx, http.MethodGet, c.members[0].url("/cluster"), nil)
	t.Log(string(b), err)
	b0 := time.Now()
	t.Log(c.NextRound(ctx), time.Since(b0))
	old, err := c.Leader(ctx)
	t.Log(err)
	s, err := c.Synchronous(ctx)
	t.Log(err)
	b0 = time.Now()
	t.Log(c.Switchover(ctx, old, s), time.Since(b0))
	t.Log(c.Healthy(ctx), time.Since(b0))
	b0 = time.Now()
	t.Log(s.KillPostgres(ctx), time.Since(b0))
	l, err := c.Leader(ctx)
	t.Log(l.name, err, time.Since(b0))
	t.Log(s.Rejoin(ctx), time.Since(b0))
	b0 = time.Now()
	t.Log(l.Kill(ctx), time.Since(b0))
	l2, err := c.Leader(ctx)
	t.Log(l2.name, err, time.Since(b0))
	t.Log(l.Rejoin(ctx), time.Since(b0))
	t.Log(c.describe())
}
