package hasql

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// mark is a place in the table of marks, and the number of the transaction that has it.
type mark struct {
	client string
	slot   int32
	seq    int64
}

// marks are the places of a process. A transaction has one for itself, so that it waits for no other. A place is free again once
// its transaction has ended for sure: a session that nobody hears of any more may still hold its row.
type marks struct {
	mu     sync.Mutex
	client string // of this process
	spare  []*mark
	used   int32

	lateByDefault atomic.Bool // transactions have a lasting snapshot unless they say otherwise
	refused       sync.Map    // when nodes have refused a trace, by name
}

func (m *marks) take() *mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == "" {
		m.client = newUUID()
	}
	if n := len(m.spare); n > 0 {
		last := m.spare[n-1]
		m.spare = m.spare[:n-1]
		last.seq++
		return last
	}
	m.used++
	return &mark{client: m.client, slot: m.used, seq: 1}
}

func (m *marks) free(place *mark) {
	if place == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spare = append(m.spare, place)
}

// newUUID returns a random one, of version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// untraceablePause is how long a node that has refused a trace is not asked for another one.
const untraceablePause = 5 * time.Minute

// untraceable reports whether a node has refused a trace lately.
func (m *marks) untraceable(node string) bool {
	at, refused := m.refused.Load(node)
	return refused && time.Since(at.(time.Time)) < untraceablePause
}

// warnUntraceable logs, once for each node, that nothing will tell the outcome of a COMMIT that is not answered.
func (m *marks) warnUntraceable(log *zap.Logger, node string, err error) {
	if _, already := m.refused.Swap(node, time.Now()); !already {
		log.Warn("the server refuses what tells the outcome of a COMMIT: use TxOptions.Marker, or an unanswered COMMIT is unknown",
			zap.String("node", node), zap.Error(err))
	}
}
