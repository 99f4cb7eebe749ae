package hasqlslog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/pghasql/hasql"
)

// kept is a handler that keeps records.
type kept struct {
	least   slog.Level
	with    []slog.Attr
	records *[]slog.Record
}

func (k kept) Enabled(_ context.Context, l slog.Level) bool { return l >= k.least }

func (k kept) Handle(_ context.Context, r slog.Record) error {
	r.AddAttrs(k.with...)
	*k.records = append(*k.records, r)
	return nil
}

func (k kept) WithAttrs(attrs []slog.Attr) slog.Handler { k.with = attrs; return k }
func (k kept) WithGroup(string) slog.Handler            { return k }

func TestEntriesKeepLevelsAndTypes(t *testing.T) {
	var records []slog.Record
	log := New(slog.New(kept{least: slog.LevelInfo, records: &records})).Named("hasql").With(zap.String("pool", "orders"))
	failed, now := errors.New("no route to host"), time.Now()
	log.Debug("not wanted")
	for _, say := range []func(string, ...zap.Field){log.Info, log.Warn, log.Error} {
		say("node is not usable", zap.String("node", "pg1"), zap.Stringer("status", hasql.StatusDown), zap.Duration("gap", time.Second),
			zap.Uint32("timeline", 7), zap.Int64("waited", -3), zap.Bool("up", true), zap.Float64("share", .5), zap.Time("at", now),
			zap.Error(failed), zap.Error(nil), zap.Strings("nodes", []string{"pg1", "pg2"}))
	}
	if len(records) != 3 {
		t.Fatalf("%d records", len(records))
	}
	for i, level := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		got := make(map[string]slog.Value)
		var order []string
		records[i].Attrs(func(a slog.Attr) bool {
			got[a.Key], order = a.Value, append(order, a.Key)
			return true
		})
		if r := records[i]; r.Level != level || r.Message != "node is not usable" || r.Time.IsZero() {
			t.Errorf("%+v", r)
		}
		if want := "logger node status gap timeline waited up share at error nodes pool"; strings.Join(order, " ") != want {
			t.Errorf("attributes %q, not %q", order, want)
		}
		for key, want := range map[string]slog.Value{
			"logger": slog.StringValue("hasql"), "node": slog.StringValue("pg1"), "status": slog.StringValue("down"),
			"gap": slog.DurationValue(time.Second), "timeline": slog.Uint64Value(7), "waited": slog.Int64Value(-3),
			"up": slog.BoolValue(true), "share": slog.Float64Value(.5), "at": slog.TimeValue(now), "error": slog.AnyValue(failed),
			"pool": slog.StringValue("orders"),
		} {
			if !got[key].Equal(want) {
				t.Errorf("%s is %v (%v), not %v (%v)", key, got[key], got[key].Kind(), want, want.Kind())
			}
		}
		if nodes, ok := got["nodes"].Any().([]any); !ok || len(nodes) != 2 || nodes[0] != "pg1" {
			t.Errorf("nodes are %v", got["nodes"])
		}
	}
}

// What a PoolManager logs arrives: here nobody listens.
func TestPoolManagerLogsToSlog(t *testing.T) {
	config, err := hasql.ParseConfig("postgres://app@127.0.0.1:1/shop?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	config.Logger = New(slog.New(slog.NewTextHandler(&text, nil)))
	pool, err := hasql.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := pool.WaitNextCheck(t.Context()); err != nil {
		t.Error(err)
	}
	if err := pool.Close(t.Context()); err != nil { // after that nothing is logged any more
		t.Error(err)
	}
	for _, part := range []string{"level=WARN", `msg="node is not usable"`, "logger=hasql", "node=127.0.0.1:1", "status=down", "connection refused", `advice="check host and port`} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("the log does not say %q: %s", part, text.String())
		}
	}
}
