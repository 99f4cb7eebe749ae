package hasql

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// tracing is what a process has learnt about the ways to trace its commits.
type tracing struct {
	lateByDefault atomic.Bool // transactions have a lasting snapshot unless they say otherwise
	refused       sync.Map    // when nodes have refused a trace, by name
}

// untraceablePause is how long a node that has refused a trace is not asked for another one.
const untraceablePause = 5 * time.Minute

// untraceable reports whether a node has refused a trace lately.
func (t *tracing) untraceable(node string) bool {
	at, refused := t.refused.Load(node)
	return refused && time.Since(at.(time.Time)) < untraceablePause
}

// warnUntraceable logs, once for each node, that nothing will tell the outcome of a COMMIT that is not answered.
func (t *tracing) warnUntraceable(log *zap.Logger, node string, err error) {
	if _, already := t.refused.Swap(node, time.Now()); !already {
		log.Warn("the server refuses what tells the outcome of a COMMIT: use TxOptions.Marker, or an unanswered COMMIT is unknown",
			zap.String("node", node), zap.Error(err))
	}
}
