package hasql

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pghasql/hasql/internal/testenv"
)

// passwords are ways to write one: what precedes and follows it is the fuzzer's.
var passwords = []string{
	"%s password=" + password + " %s",
	"%s password='" + password + "'%s",
	"%s sslpassword=" + password + " %s",
	"postgres://%s:" + password + "@%s",
	"postgres://%s?password=" + password + "&%s",
	"postgresql://%s&sslpassword=" + password + "%s",
}

// FuzzPassword looks for a password in whatever comes of a DSN. The DSN may be damaged, so that the password is not what
// parsers take for it; to its reader it still is.
func FuzzPassword(f *testing.F) {
	testenv.Services(f)
	f.Fuzz(func(t *testing.T, form byte, before, after string) {
		if strings.Contains(before+after, password) {
			t.Skip("the fuzzer wrote it elsewhere")
		}
		dsn := fmt.Sprintf(passwords[int(form)%len(passwords)], before, after)
		for _, text := range traces(t, dsn) {
			if strings.Contains(text, password) {
				t.Errorf("%q leads to %s", dsn, text)
			}
		}
	})
}

// traces are the texts that a DSN leaves: its error, or all that a PoolManager says whose nodes are all down.
func traces(t *testing.T, dsn string) (texts []string) {
	note := func(values ...any) {
		for _, v := range values {
			encoded, _ := json.Marshal(v) // what can't be encoded can't be leaked by it
			texts = append(texts, fmt.Sprintf("%v\n%+v\n%#v\n%s", v, v, v, encoded))
		}
	}
	c, err := ParseConfig(dsn)
	if err != nil {
		note(err)
		return texts
	}
	note(c, c.warnings)
	if len(c.Nodes) > 4 {
		return texts // nothing new, but much of it
	}
	c.Discoverer = nil // it would ask the network
	for _, n := range c.Nodes {
		n.Pool.MinConns, n.Pool.MinIdleConns = 0, 0 // pgxpool begins with room for as many
		n.Pool.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
		n.Pool.ConnConfig.DialFunc = func(_ context.Context, network, addr string) (net.Conn, error) {
			return nil, fmt.Errorf("dial %s %s: %w", network, addr, syscall.ECONNREFUSED)
		}
	}
	testenv.Bubble(t, func(t *testing.T) {
		var logs bytes.Buffer
		c.Logger = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&logs), zap.DebugLevel))
		pm, err := NewWithConfig(t.Context(), c)
		if err != nil {
			t.Fatalf("%q: %v", dsn, err)
		}
		if err := pm.WaitNextCheck(t.Context()); err != nil {
			t.Errorf("%q: %v", dsn, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = pm.AcquireMaster(ended)
		if err == nil {
			t.Errorf("%q: a connection to a node that is down", dsn)
		}
		note(err, pm.Stat())
		for n := range pm.Snapshot().Nodes() {
			note(n, n.Cause)
		}
		if err := pm.Close(t.Context()); err != nil {
			t.Errorf("%q: %v", dsn, err)
		}
		note(logs.String())
	})
	return texts
}
