package dashboard

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

const (
	// frameInterval is the time between two frames of a stream.
	frameInterval = 100 * time.Millisecond

	// patience is how long a browser may take to receive a frame.
	patience = 10 * time.Second
)

// frame is State with only those events and bins that the stream has not sent yet.
type frame struct {
	State
	Timeline Timeline `json:"timeline"`
}

// cursor is the position of a stream.
type cursor struct {
	event int // number of the last event sent
	bin   int // number of the last bin sent; its counts may have grown since, so it is sent again
}

// next returns the next frame.
func (c *cursor) next(source Source) frame {
	f := frame{State: source.State(), Timeline: source.Timeline(c.bin)}
	f.Events = slices.DeleteFunc(f.Events, func(e Event) bool { return e.Number <= c.event })
	if n := len(f.Events); n > 0 {
		c.event = f.Events[n-1].Number
	}
	c.bin = max(c.bin, f.Timeline.First+len(f.Timeline.Bins)-1)
	return f
}

// serveEvents sends frames until the browser disconnects. Each stream reads the source by itself, after it has sent the frame
// before. So a slow browser gets fewer and larger frames and does not delay other browsers.
func serveEvents(w http.ResponseWriter, r *http.Request, source Source) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	ticks := time.NewTicker(frameInterval)
	defer ticks.Stop()
	var at cursor
	ended := false
	for {
		data, err := json.Marshal(at.next(source))
		if err != nil {
			panic(err) // State is plain data
		}
		// If the connection does not support deadlines, the frame is sent without one.
		_ = out.SetWriteDeadline(time.Now().Add(patience))
		if _, err := w.Write(slices.Concat([]byte("retry: 500\ndata: "), data, []byte("\n\n"))); err != nil {
			return
		}
		if out.Flush() != nil || ended {
			return
		}
		select {
		case <-ticks.C:
		case <-r.Context().Done():
			ended = true // one more frame shows the end
		}
	}
}
