package hasql

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/pghasql/hasql/internal/evidence"
)

// CommitID is a transaction whose outcome was unknown, as text that may be stored: see [PoolManager.ResolveCommit]. It holds
// what was known of the transaction and no secret. Its form may change with a new major version.
type CommitID string

// lostCommit is what is known of a transaction for the case that the answer to its COMMIT does not come.
type lostCommit struct {
	trace   evidence.Trace
	mark    *mark
	marker  string   // the table of the mark
	nothing bool     // it has written nothing
	verify  verifier // nil if there is none
}

// id returns what can be stored.
func (l *lostCommit) id() CommitID {
	v := url.Values{"v": {"1"}, "node": {l.trace.Node}}
	set := func(key string, n uint64) {
		if n != 0 {
			v.Set(key, strconv.FormatUint(n, 10))
		}
	}
	set("system", l.trace.SystemID)
	set("timeline", uint64(l.trace.Life.Timeline))
	set("recovered", l.trace.Life.Recovered)
	set("started", uint64(l.trace.Life.Started))
	set("xid", l.trace.XID)
	set("lsn", l.trace.LSN)
	set("pid", uint64(l.trace.PID))
	if l.mark != nil {
		v.Set("marker", l.marker)
		v.Set("client", l.mark.client)
		v.Set("slot", strconv.Itoa(int(l.mark.slot)))
		set("seq", uint64(l.mark.seq))
	}
	return CommitID(v.Encode())
}

// parse reads what id has written.
func (id CommitID) parse() (l lostCommit, err error) {
	v, err := url.ParseQuery(string(id))
	if err != nil || v.Get("v") != "1" || v.Get("node") == "" {
		return l, errors.New("hasql: not a CommitID")
	}
	get := func(key string, bits int) uint64 {
		if !v.Has(key) {
			return 0
		}
		n, wrong := strconv.ParseUint(v.Get(key), 10, bits)
		if wrong != nil {
			err = fmt.Errorf("hasql: not a CommitID: %s", key)
		}
		return n
	}
	l.trace = evidence.Trace{
		Node: v.Get("node"), SystemID: get("system", 64), XID: get("xid", 64), LSN: get("lsn", 64), PID: int32(get("pid", 31)),
		Life: evidence.Life{Timeline: uint32(get("timeline", 32)), Recovered: get("recovered", 64), Started: int64(get("started", 63))},
	}
	if l.marker = v.Get("marker"); l.marker != "" {
		l.mark = &mark{client: v.Get("client"), slot: int32(get("slot", 31)), seq: int64(get("seq", 63))}
		if l.mark.seq == 0 && err == nil {
			err = errors.New("hasql: not a CommitID: seq")
		}
	}
	return l, err
}
