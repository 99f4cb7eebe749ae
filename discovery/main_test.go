package discovery

import (
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// show writes a list in one line: name=host:port/addr@zone{tags}.
func show(list []Endpoint) string {
	var texts []string
	for _, e := range list {
		text := fmt.Sprintf("%s=%s:%d", e.Name, e.Host, e.Port)
		if e.Addr.IsValid() {
			text += "/" + e.Addr.String()
		}
		if e.Zone != "" {
			text += "@" + e.Zone
		}
		var tags []string
		for name, value := range e.Tags {
			tags = append(tags, name+":"+value)
		}
		if slices.Sort(tags); tags != nil {
			text += "{" + strings.Join(tags, " ") + "}"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " ")
}

// check compares the outcome of a Discover with a list, as show writes it, or with pieces of an error.
func check(t *testing.T, list []Endpoint, err error, want string, problems ...string) {
	t.Helper()
	switch {
	case len(problems) == 0 && err != nil:
		t.Errorf("%v, want %s", err, want)
	case len(problems) > 0 && err == nil:
		t.Errorf("got %s, want an error with %q", show(list), problems)
	case err != nil && list != nil:
		t.Errorf("a list and an error: %v and %v", list, err)
	case show(list) != want:
		t.Errorf("got  %s\nwant %s", show(list), want)
	}
	for _, p := range problems {
		if err != nil && !strings.Contains(err.Error(), p) {
			t.Errorf("the error does not say %q: %v", p, err)
		}
	}
	if err != nil && !strings.HasPrefix(err.Error(), "hasql: ") {
		t.Errorf("the error does not say who speaks: %v", err)
	}
	if empty := slices.Contains(problems, ErrNoNodes.Error()); err != nil && empty != errors.Is(err, ErrNoNodes) {
		t.Errorf("ErrNoNodes: %v, want %v: %v", !empty, empty, err)
	}
}

// quiet is where a server that is meant to fail complains.
func quiet(t *testing.T) *log.Logger {
	return log.New(t.Output(), "", 0)
}
