package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/cmd/hasql/internal/dashboard"
)

// tell writes a short log.
func tell(s *screen) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.noticed(began, "before the clock runs")
	s.line(header([]string{"pg1", "pg2"}))
	s.begin(began)
	s.tick(began.Add(time.Second), tick{"pg1", 12, 3456, 0, []string{"master", "replica"}})
	s.event(began.Add(1234*ms), eventFault, "pg1 killed")
	s.noticed(began.Add(1242*ms), "hasql: master lost")
	s.tick(began.Add(2*time.Second), tick{"", 7, 8, 9, []string{"down", "replica"}})
	s.echo(began.Add(2334*ms), eventOutage, "the application writes again")
}

func TestStoryIsAligned(t *testing.T) {
	t.Parallel()
	const want = `       time  master  writes/s   reads/s  failed  pg1      pg2
      1.0 s  pg1           12      3456       0  master   replica
    1.234 s  pg1 killed
      +8 ms  hasql: master lost
      2.0 s  none           7         8       9  down     replica
   +1100 ms  the application writes again
`
	var got strings.Builder
	tell(&screen{out: &got, verbose: true})
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestAsidesAreForThoseWhoAsk(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	tell(&screen{out: &got})
	if strings.Contains(got.String(), "hasql:") {
		t.Errorf("got:\n%s", got.String())
	}
}

func TestPageTellsTheSameStory(t *testing.T) {
	t.Parallel()
	b := newRecorder([]string{"pg1", "pg2"}, 1)
	tell(&screen{out: io.Discard, recorder: b})
	want := []dashboard.Event{
		{Number: 1, At: 0, Kind: eventNoticed, Text: "before the clock runs"},
		{Number: 2, At: Millis(1234 * ms), Kind: eventFault, Text: "pg1 killed"},
		{Number: 3, At: Millis(1242 * ms), Kind: eventNoticed, Text: "hasql: master lost"},
		{Number: 4, At: Millis(2334 * ms), Kind: eventOutage, Text: "the application writes again"},
	}
	if got := b.log(); !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestBriefIsTheGist(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	tests := []struct {
		err  error
		want string
	}{
		{&pgconn.PgError{Severity: "FATAL", Code: "57P01", Message: "terminating connection"}, "terminating connection"},
		{refused, "connection refused"},
		{&hasql.NodeDownError{Node: "pg1", Status: hasql.StatusDown, Cause: refused}, "connection cut because pg1 is down"},
		{errors.New("one\ntwo"), "one"},
		{context.Canceled, "context canceled"},
		{errors.New(strings.Repeat("é", 100)), strings.Repeat("é", 79) + "…"},
	}
	for _, test := range tests {
		if got := brief(test.err); got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}
