package dashboard

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

// stream reads the frames that a browser gets.
type stream struct {
	t     *testing.T
	lines *bufio.Scanner
}

func openStream(t *testing.T, url string) *stream {
	t.Helper()
	response, err := http.Get(url + "/api/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	return &stream{t, lines}
}

// received is a frame as the page reads it.
type received struct {
	Run      string
	Events   []struct{ Number int }
	Timeline struct {
		First int
		Bins  [][]int
	}
}

func (s *stream) next() (f received) {
	s.t.Helper()
	for s.lines.Scan() {
		if data, ok := strings.CutPrefix(s.lines.Text(), "data: "); ok {
			if err := json.Unmarshal([]byte(data), &f); err != nil {
				s.t.Fatal(err)
			}
			return f
		}
	}
	s.t.Fatalf("the stream ended: %v", s.lines.Err())
	return f
}

func TestStreamSendsAllOnceAndThenWhatIsNew(t *testing.T) {
	t.Parallel()
	source := newFakeSource()
	server := httptest.NewServer(Handler(source))
	t.Cleanup(server.Close)
	source.change(func(f *fakeSource) {
		f.bins.Write(2*BinWidth, 0)
		f.state.Events = append(f.state.Events, Event{Number: 1}, Event{Number: 2})
	})

	s := openStream(t, server.URL)
	first := s.next()
	if first.Run != "this" || len(first.Events) != 2 || first.Timeline.First != 0 || len(first.Timeline.Bins) != 3 {
		t.Errorf("first frame: %+v", first)
	}
	source.change(func(f *fakeSource) {
		f.bins.Write(2*BinWidth, 0) // the last bin still grows
		f.bins.Write(3*BinWidth, 0)
		f.state.Events = append(f.state.Events, Event{Number: 3})
	})
	var events []int
	var f received
	for len(f.Timeline.Bins) != 2 {
		f = s.next()
		for _, e := range f.Events {
			events = append(events, e.Number)
		}
	}
	if f.Timeline.First != 2 || f.Timeline.Bins[0][0] != 2 || f.Timeline.Bins[1][0] != 1 {
		t.Errorf("timeline: %+v", f.Timeline)
	}
	if len(events) != 1 || events[0] != 3 {
		t.Errorf("events: %v", events)
	}
	if again := openStream(t, server.URL).next(); len(again.Events) != 3 || len(again.Timeline.Bins) != 4 {
		t.Errorf("a browser that connects again gets %+v", again)
	}
}

// slowBrowser receives each frame slowly.
type slowBrowser struct {
	*httptest.ResponseRecorder
	frames int
	leave  func()
}

func (s *slowBrowser) Write(data []byte) (int, error) {
	s.frames++
	if s.frames == 4 {
		s.leave()
	}
	time.Sleep(time.Minute)
	return s.ResponseRecorder.Write(data)
}

func TestSlowBrowserGetsFewerFramesAndMissesNothing(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		source := newFakeSource()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 200 { // one each second
				source.change(func(f *fakeSource) { f.state.Events = append(f.state.Events, Event{Number: i + 1}) })
				time.Sleep(time.Second)
			}
		}()
		request := httptest.NewRequest("GET", "http://localhost/api/events", nil)
		ctx, leave := context.WithCancel(t.Context())
		browser := &slowBrowser{ResponseRecorder: httptest.NewRecorder(), leave: leave}
		serveEvents(browser, request.WithContext(ctx), source)
		got := strings.Count(browser.Body.String(), `"number":`)
		// A browser in time gets ten frames each second.
		if browser.frames > 20 || got < 200 {
			t.Errorf("%d frames with %d events, want few with all 200", browser.frames, got)
		}
		<-done
	})
}
