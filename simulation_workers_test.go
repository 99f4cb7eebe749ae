package hasql

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

// A run that fails may take its process with it, by a panic in the library or a deadlock of the bubble, and the less else
// a process does, the more alike are two runs of one seed. So runs are made by workers: this very binary, with one
// processor each, and the seeds to run in its environment.
const (
	workEnv  = "HASQL_SIMULATION" // the specs of a worker, separated by spaces
	traceEnv = "HASQL_SIMULATION_TRACE"
)

// TestSimulationWorker is the other end of them: it prints one result per line.
func TestSimulationWorker(t *testing.T) {
	work := os.Getenv(workEnv)
	if work == "" {
		t.Skip("runs as a child of other tests")
	}
	testenv.Isolate(t)
	out := json.NewEncoder(os.Stdout)
	for text := range strings.FieldsSeq(work) {
		sp, err := parseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		simulate(t, sp, func(r result) {
			if len(r.Failures) == 0 && os.Getenv(traceEnv) == "" {
				r.Trace = nil
			}
			if err := out.Encode(r); err != nil {
				t.Error(err)
			}
			if len(r.Failures) > 0 {
				os.Exit(1) // what is left of it must not disturb the next
			}
		})
	}
}

// workers run specs in worker processes.
type workers struct {
	binary string // with TestSimulationWorker
	size   int    // how many at once
	trace  bool   // whether the results of good runs have one too
}

func ownWorkers(t *testing.T) workers {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return workers{binary: binary, size: runtime.NumCPU()}
}

// batch is how many runs a process makes.
const batch = 64

// run runs specs and calls each with every result, one at a time and in no order, until it returns false.
func (f workers) run(specs func(yield func(spec) bool), each func(result) bool) {
	var mu sync.Mutex
	var over bool
	batches := make(chan []spec)
	var running sync.WaitGroup
	for range f.size {
		running.Go(func() {
			for todo := range batches {
				for len(todo) > 0 {
					done := f.work(todo, func(r result) bool {
						mu.Lock()
						defer mu.Unlock()
						over = over || !each(r)
						return !over
					})
					todo = todo[done:]
				}
			}
		})
	}
	stopped := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return over
	}
	var next []spec
	for sp := range specs {
		if next = append(next, sp); len(next) == batch {
			batches <- next
			next = nil
		}
		if stopped() {
			break
		}
	}
	if len(next) > 0 && !stopped() {
		batches <- next
	}
	close(batches)
	running.Wait()
}

// hang is how long one run may take of the time of this world, where it needs milliseconds.
const hang = 2 * time.Minute

// work runs specs in one process, and returns how many: all of them, or up to the first that failed.
func (f workers) work(specs []spec, each func(result) bool) (done int) {
	var list []string
	for _, sp := range specs {
		list = append(list, sp.String())
	}
	cmd := exec.Command(f.binary, "-test.run=^TestSimulationWorker$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400", workEnv+"="+strings.Join(list, " "))
	if f.trace {
		cmd.Env = append(cmd.Env, traceEnv+"=1")
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		each(crashed(specs[0], err, ""))
		return len(specs)
	}
	hung := time.AfterFunc(hang, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	failed := false
	output := new(strings.Builder)
	for lines := bufio.NewReader(stdout); done < len(specs) && !failed; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var r result
		if line[0] != '{' || json.Unmarshal(line, &r) != nil {
			output.Write(line)
			continue
		}
		done++
		hung.Reset(hang)
		failed = len(r.Failures) > 0
		if !each(r) {
			_ = cmd.Process.Kill()
			done = len(specs)
		}
	}
	_, _ = io.Copy(output, stdout)
	if err := cmd.Wait(); err != nil && done < len(specs) && !failed {
		each(crashed(specs[done], err, output.String()+stderr.String()))
		done++
	}
	return done
}

// crashed is the result of a run that took its process with it.
func crashed(sp spec, err error, output string) result {
	output = output[:min(len(output), 8000)]
	return result{Spec: sp.String(), Failures: []failure{{Invariant: "crash", What: fmt.Sprintf("%v\n%s", err, output)}}}
}
