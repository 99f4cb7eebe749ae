package discovery

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestStatic(t *testing.T) {
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name    string
		list    []Endpoint
		want    string
		problem string
	}{
		{"names and ports are filled in", []Endpoint{
			{Host: "pg1"},
			{Host: "pg2", Port: 5433, Name: "second", Zone: "b", Tags: map[string]string{"noloadbalance": "true"}},
			{Host: "pg3", Addr: addr("10.0.0.3")},
			{Host: "::1"},
			{Host: "10.0.0.5", Addr: addr("::ffff:10.0.0.5")},
		}, "pg1:5432=pg1:5432 second=pg2:5433@b{noloadbalance:true} pg3:5432 (10.0.0.3)=pg3:5432/10.0.0.3 " +
			"[::1]:5432=::1:5432 10.0.0.5:5432=10.0.0.5:5432/10.0.0.5", ""},
		{"the order stays, repetitions go", []Endpoint{{Host: "b"}, {Host: "a"}, {Host: "B", Port: 5432}}, "b:5432=b:5432 a:5432=a:5432", ""},
		{
			"addresses of one name are several nodes",
			[]Endpoint{{Host: "a", Addr: addr("10.0.0.2")}, {Host: "a", Addr: addr("10.0.0.1")}},
			"a:5432 (10.0.0.2)=a:5432/10.0.0.2 a:5432 (10.0.0.1)=a:5432/10.0.0.1", "",
		},
		{"nothing", nil, "", ErrNoNodes.Error()},
		{"no host", []Endpoint{{Host: "a"}, {Name: "b"}}, "", "node 2: no host"},
		{"one name twice", []Endpoint{{Host: "a", Name: "x"}, {Host: "b", Name: "x"}}, "", `two nodes have the name "x"`},
		{"a DSN", []Endpoint{{Host: "postgres://app:geheim@pg1/shop"}}, "", "neither a name nor an address"},
		{"a socket", []Endpoint{{Host: "/run/postgresql"}}, "", "neither a name nor an address"},
		{"several hosts", []Endpoint{{Host: "pg1,pg2"}}, "", "neither a name nor an address"},
		{"a name that moves the cursor", []Endpoint{{Host: "a", Name: "a\x1b[2J"}}, "", "cannot be printed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Static(test.list...)
			list, err := s.Discover(t.Context())
			var problems []string
			if test.problem != "" {
				problems = []string{test.problem}
			}
			check(t, list, err, test.want, problems...)
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the error tells the password: %v", err)
			}
			if invalid := s.Validate(); (invalid == nil) != (err == nil) {
				t.Errorf("Validate: %v, Discover: %v", invalid, err)
			}
		})
	}
}

func TestListsBelongToTheCaller(t *testing.T) {
	given := []Endpoint{{Host: "pg1", Tags: map[string]string{"a": "1"}}}
	s := Static(given...)
	given[0].Host, given[0].Tags["a"] = "changed", "changed"
	for range 2 {
		list, err := s.Discover(t.Context())
		check(t, list, err, "pg1:5432=pg1:5432{a:1}")
		list[0].Tags["a"], list[0].Host = "changed", "changed"
	}
}

func TestStaticHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if list, err := Static(Endpoint{Host: "pg1"}).Discover(ctx); !errors.Is(err, context.Canceled) {
		t.Error(list, err)
	}
}

func TestEqual(t *testing.T) {
	e := Endpoint{Name: "n", Host: "h", Port: 1, Zone: "z", Addr: netip.MustParseAddr("10.0.0.1")}
	same := e
	same.Tags = map[string]string{}
	if !e.Equal(same) {
		t.Error("no tags differ from an empty map of tags")
	}
	for name, change := range map[string]func(*Endpoint){
		"Name": func(e *Endpoint) { e.Name = "x" },
		"Host": func(e *Endpoint) { e.Host = "x" },
		"Port": func(e *Endpoint) { e.Port = 2 },
		"Addr": func(e *Endpoint) { e.Addr = netip.Addr{} },
		"Zone": func(e *Endpoint) { e.Zone = "x" },
		"Tags": func(e *Endpoint) { e.Tags = map[string]string{"x": "true"} },
	} {
		other := e
		if change(&other); e.Equal(other) {
			t.Errorf("%s does not count", name)
		}
	}
}
