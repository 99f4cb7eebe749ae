package main

import (
	"bytes"
	"runtime"
	"time"
)

// goroutines counts the goroutines of a subject.
type goroutines struct {
	Before int `json:"before"` // just before the fault
	After  int `json:"after"`  // at the end of the work
	Left   int `json:"left"`   // when the subject was closed
}

// running returns the present number of goroutines of a subject. The clients that use it do not count.
func running() (n int) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if ofSubject(stack) {
			n++
		}
	}
	return n
}

// ofSubject reports whether a goroutine is one that pgx or hasql started, or something that these use.
func ofSubject(stack []byte) bool {
	if bytes.Contains(stack, []byte("main.(*load).work(")) || bytes.Contains(stack, []byte("workload.(*Prober).Run(")) {
		return false
	}
	for _, of := range []string{"github.com/jackc/", "github.com/pghasql/hasql."} {
		if bytes.Contains(stack, []byte(of)) {
			return true
		}
	}
	return false
}

// left returns how many goroutines of a closed subject are left after they had time to end.
func left() (n int) {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if n = running(); n == 0 || time.Since(began) > leaveLimit {
			return n
		}
	}
}
