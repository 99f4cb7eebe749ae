package hasql

import "sync/atomic"

// checks holds the requests to the monitor of a node, and how far the monitor is. Requests come from callers that wait
// for a probe; suggestions come from evidence that the traffic gives.
type checks struct {
	wanted    chan struct{} // capacity 1: a caller waits for a probe
	suggested chan struct{} // capacity 1: other evidence suggests a probe
	silence   chan struct{} // capacity 1: the node stays silent after a probe was suggested

	// reconnect asks for a probe over a new connection, which shows whether the node accepts sessions. A server that was
	// told to stop refuses new sessions at once, while an old session, perhaps that of the monitor, may last a moment
	// longer.
	reconnect atomic.Bool
	// contradicted is set when a session of the pool shows that sessions which begin now are read-only, although the
	// session of the monitor may still write.
	contradicted atomic.Bool

	begun    atomic.Uint64 // how many probes have begun
	underWay atomic.Bool   // whether the last of them has not ended yet
}

func newChecks() *checks {
	return &checks{
		wanted:    make(chan struct{}, 1),
		suggested: make(chan struct{}, 1),
		silence:   make(chan struct{}, 1),
	}
}

// checkNow asks for a probe now: a caller waits for it, or the whole cluster is looked at. Several requests before the probe is sent
// count as one.
func (c *checks) checkNow() { notify(c.wanted) }

// SuggestCheck suggests a probe because of other evidence. Several suggestions before the probe is sent count as one. As
// long as suggested probes show nothing new, they are made less and less often, down to one per CheckInterval. So no
// pattern of errors in the traffic of a service causes a load of probes.
func (c *checks) SuggestCheck() { notify(c.suggested) }

// Contradict suggests a probe over a new session, because a session of the pool shows that new sessions are read-only.
func (c *checks) Contradict() {
	c.contradicted.Store(true)
	c.SuggestCheck()
}

// OnSilence is called every 50 ms while the node stays silent after a suggestion.
func (c *checks) OnSilence() { notify(c.silence) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
