package hasql

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

//go:embed commit_marker.sql
var commitMarkerSQL string

// CommitMarkerSQL returns the statements that make a table for [TxOptions.Marker], for a migration: "hasql_commit", or any other
// name, with a schema before it if you like. Nothing happens if the table exists. The file commit_marker.sql has the same.
//
// The table keeps a row for each transaction that a process had open at the same time. Rows that are old may be deleted at any
// time, unless a [CommitID] of that time is still to be resolved.
func CommitMarkerSQL(table string) string {
	return strings.ReplaceAll(commitMarkerSQL, "hasql_commit", markTable(table).Sanitize())
}

func markTable(table string) pgx.Identifier { return strings.Split(table, ".") }

// setMark leaves the mark, and tells the session that did. The number in a place only grows: a transaction that was asked for
// already fails here, and so does one whose mark somebody's trigger or rule keeps away.
func setMark(table string) string {
	return `with mark as (
 insert into ` + markTable(table).Sanitize() + ` as c (client, slot, seq) values ($1::uuid, $2::int, $3::int8)
 on conflict (client, slot) do update set seq = excluded.seq, at = excluded.at where abs(c.seq) < excluded.seq returning 1)
 select case count(*) when 1 then pg_current_xact_id()::text::int8 else ('marks that could be written for this transaction: ' || count(*))::int8 end,
 pg_backend_pid()::int8, (extract(epoch from pg_postmaster_start_time()) * 1000000)::int8 from mark`
}

// askMark reads the mark. It waits for a transaction that has it and has not ended, also for the first one of a place, which others
// cannot see. If there is no mark it leaves its number with a minus, so that COMMIT with a mark before it comes in vain if it is
// still on its way.
func askMark(table string) string {
	return `insert into ` + markTable(table).Sanitize() + ` as c (client, slot, seq) values ($1::uuid, $2::int, -$3::int8)
 on conflict (client, slot) do update set at = excluded.at, seq = case when abs(c.seq) < $3::int8 then -$3::int8 else c.seq end returning c.seq`
}

// mark is a place in the table of marks, and the number of the transaction that has it.
type mark struct {
	client string
	slot   int32
	seq    int64
}

// errMarkTaken is for a mark that nothing can be told by any more.
var errMarkTaken = errors.New("the place of its mark was taken by a later transaction")

// judge tells what the mark says that was found in its place.
func (m *mark) judge(found int64) (applied bool, err error) {
	switch {
	case found == m.seq:
		return true, nil
	case found == -m.seq:
		return false, nil
	}
	return false, fmt.Errorf("%w (%d, not %d)", errMarkTaken, found, m.seq)
}

// marks are the places of a process. A transaction has one for itself, so that it waits for no other. A place is free again once
// its transaction has ended for sure: a session that nobody hears of any more may still hold its row.
type marks struct {
	mu     sync.Mutex
	client string // of this process
	spare  []*mark
	used   int32
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

func (m *marks) free(done *mark) {
	if done == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spare = append(m.spare, done)
}

// newUUID returns a random one, of version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
