package discovery

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	for _, test := range []struct {
		name, content, want, problem string
	}{
		{name: "a host a line", content: "pg2\npg1:5433", want: "pg2:5432=pg2:5432 pg1:5433=pg1:5433"},
		{
			name: "all that a line can say", want: "first=pg1:5433/10.0.0.1@a{noloadbalance:true weight:2 x:} pg2:5432=pg2:5432{note:a=b}",
			content: "\ufeff\n  # nodes of the shop\r\npg1:5433 name=first zone=a addr=10.0.0.1 noloadbalance weight=2 x= # reports\r\n\t\r\npg2 note=a=b\r\n",
		},
		{name: "IPv6", content: "[::1]:5433\n[::2]:5432\n::3\n", want: "[::1]:5433=::1:5433 [::2]:5432=::2:5432 [::3]:5432=::3:5432"},
		{name: "repetitions", content: "pg1\npg2\npg1:5432\n", want: "pg1:5432=pg1:5432 pg2:5432=pg2:5432"},
		{name: "JSON of hosts", content: ` ["pg1", "pg2:5433", "[::1]:5434"] `, want: "pg1:5432=pg1:5432 pg2:5433=pg2:5433 [::1]:5434=::1:5434"},
		{
			name: "JSON of objects", content: `[{"name": "first", "host": "pg1", "port": 5433, "addr": "10.0.0.1", "zone": "a",
				"tags": {"noloadbalance": true, "weight": 2, "note": "x y"}}, "pg2"]`,
			want: "first=pg1:5433/10.0.0.1@a{noloadbalance:true note:x y weight:2} pg2:5432=pg2:5432",
		},
		{name: "empty", content: "", problem: ErrNoNodes.Error()},
		{name: "comments alone", content: "# pg1\n", problem: ErrNoNodes.Error()},
		{name: "empty JSON", content: "[]", problem: ErrNoNodes.Error()},
		{name: "half JSON", content: `[{"host": "pg1"}, {"ho`, problem: "not JSON"},
		{name: "an opening bracket", content: `[`, problem: "not JSON"},
		{name: "an object alone", content: `{"host": "pg1"}`, problem: "line 1: "},
		{name: "a mistake beside the tags", content: `["pg0", {"host": "pg1", "noloadbalance": true}]`, problem: "node 2: a node has name, host"},
		{name: "an object without a host", content: `[{"name": "pg1"}]`, problem: "node 1: no host"},
		{name: "a port in the host of an object", content: `[{"host": "pg1:5432"}]`, problem: "node 1: a host that is neither"},
		{name: "JSON of null", content: `["pg1", null]`, problem: "node 2: no host"},
		{name: "JSON of numbers", content: `["pg1", 1]`, problem: "node 2: a node has name, host"},
		{name: "not a port", content: "pg1\n\npg2:x", problem: "line 3: a port is a number from 1 to 65535"},
		{name: "too high a port", content: "pg1:65536", problem: "line 1: a port is a number from 1 to 65535"},
		{name: "port 0", content: "pg1:0", problem: "line 1: a port is a number from 1 to 65535"},
		{name: "a port without a host", content: ":5432", problem: "line 1: no host"},
		{name: "too many colons", content: "pg1:1:2", problem: "line 1: a node is written host or host:port"},
		{name: "not an address", content: "pg1 addr=pg1", problem: "line 1: addr is not an address"},
		{name: "a value without a key", content: "pg1 =x", problem: "line 1: a word that begins with ="},
		{name: "a DSN", content: "postgres://app:geheim@pg1/shop", problem: "line 1: "},
		{name: "a DSN of words", content: "host=pg1 password=geheim", problem: "line 1: a host that is neither"},
		{name: "a DSN in JSON", content: `["postgres://app:geheim@pg1/shop"]`, problem: "node 1: "},
		{name: "not text", content: "\x00\x01\x02\xff", problem: "line 1: a host that is neither"},
		{name: "one name twice", content: "pg1 name=a\npg2 name=a", problem: `two nodes have the name "a"`},
		{name: "too long", content: strings.Repeat("pg1\n", DefaultMaxBytes/4) + "p", problem: "more than 1048576 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "nodes")
			write(t, path, test.content)
			list, err := File(path).Discover(t.Context())
			var problems []string
			if test.problem != "" {
				problems = []string{test.problem, path}
			}
			check(t, list, err, test.want, problems...)
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	folder := t.TempDir()
	if _, err := File(filepath.Join(folder, "missing")).Discover(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	list, err := File(folder).Discover(t.Context())
	check(t, list, err, "", folder+" is not a file")
	list, err = File("").Discover(t.Context())
	check(t, list, err, "", "no path")
	negative := File("x")
	negative.Interval = -1
	list, err = negative.Discover(t.Context())
	check(t, list, err, "", "Interval must not be negative")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := File(folder).Discover(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Each change is told once, within an interval of its time; what changes nothing and what stays wrong is told no more.
func TestFileWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	at := time.Unix(1e9, 0)
	keepTime := func() { // as if it had been written in one tick of the clock
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		do         func()
		list, fail string
	}{
		{func() { write(t, path, "pg1\n"); keepTime() }, "pg1:5432=pg1:5432", ""},
		{func() { write(t, path, "pg2\n"); keepTime() }, "pg2:5432=pg2:5432", ""},
		{func() { write(t, path, "pg2 # the same\n") }, "", ""},
		{func() { write(t, path, "pg2 zone=a\n") }, "pg2:5432=pg2:5432@a", ""},
		{func() { write(t, path, "") }, "", ErrNoNodes.Error()},
		{func() { write(t, path, "# still\n") }, "", ""},
		{func() { write(t, path, "pg2:x\n") }, "", "line 1"},
		{func() { os.Remove(path) }, "", "no such file"},
		{func() {}, "", ""},
		{func() { write(t, path, "pg2 zone=a\n") }, "pg2:5432=pg2:5432@a", ""},
	}
	testenv.Bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		type event struct {
			list []Endpoint
			err  error
		}
		told := make(chan event, 10)
		steps[0].do()
		go func() {
			defer close(told)
			var watcher Watcher = File(path)
			for list, err := range watcher.Watch(ctx) {
				told <- event{list, err}
			}
		}()
		synctest.Wait()
		for i, step := range steps {
			if i > 0 {
				step.do()
				time.Sleep(DefaultFileInterval)
				synctest.Wait()
			}
			var events []event
			for len(told) > 0 {
				events = append(events, <-told)
			}
			switch {
			case step.list == "" && step.fail == "":
				if len(events) != 0 {
					t.Errorf("step %d told %v", i, events)
				}
			case len(events) != 1:
				t.Errorf("step %d told %v", i, events)
			case step.fail != "":
				check(t, events[0].list, events[0].err, "", step.fail)
			default:
				check(t, events[0].list, events[0].err, step.list)
				events[0].list[0].Host = "changed" // a list belongs to the caller
			}
		}
		cancel()
		if last, more := <-told; more {
			t.Errorf("at the end it told %v", last)
		}
	})
}

// Kubernetes shows a ConfigMap by symbolic links to symbolic links, and exchanges one in the middle.
func TestFileWatchFollowsAConfigMap(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "nodes")
	version := func(name, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, name, "nodes"), content)
		link := filepath.Join(folder, "..data_tmp")
		if err := errors.Join(os.Symlink(name, link), os.Rename(link, filepath.Join(folder, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", "pg1\n")
	if err := os.Symlink("..data/nodes", path); err != nil {
		t.Fatal(err)
	}
	testenv.Bubble(t, func(t *testing.T) {
		f := File(path)
		f.Interval = time.Minute
		began := time.Now()
		var got []string
		for list, err := range f.Watch(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, show(list))
			if len(got) == 2 {
				break
			}
			version("..2", "pg2\n")
		}
		if want := "pg1:5432=pg1:5432 pg2:5432=pg2:5432"; strings.Join(got, " ") != want || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v, want %s", time.Since(began), got, want)
		}
	})
}

// A loop that breaks, or a context that has ended, ends the sequence at once.
func TestFileWatchEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	testenv.Bubble(t, func(t *testing.T) {
		for range File(path).Watch(t.Context()) {
			break // at the error that there is no such file
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for list, err := range File(path).Watch(ctx) {
			t.Error(list, err)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add([]byte("pg1:5432 zone=a x # y\n[::1]:1"))
	f.Add([]byte(`["pg1", {"host": "pg2", "port": 1, "tags": {"a": true}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseFile(data)
		if err != nil {
			return
		}
		for _, e := range list {
			if err := checkHost(e.Host); err != nil {
				t.Errorf("%q has the host %q: %v", data, e.Host, err)
			}
		}
	})
}
