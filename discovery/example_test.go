package discovery_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/discovery"
)

// printNodes asks a discoverer and shows what it found.
func printNodes(d hasql.Discoverer) {
	list, err := d.Discover(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range list {
		fmt.Println(e.Name, e.Host, e.Port, e.Zone, e.Tags)
	}
}

// Every address of a name is a node, such as the headless service of a StatefulSet.
func ExampleDNS() {
	d := discovery.DNS("pg.shop.svc.cluster.local.", 5432) // the dot keeps the resolver from trying other names
	if err := d.Validate(); err != nil {
		log.Fatal(err)
	}
	printNodes(discovery.DNS("127.0.0.1", 5432)) // an address is a list of one
	// Output: 127.0.0.1:5432 127.0.0.1 5432  map[]
}

// The records of _postgresql._tcp.example.org are the nodes.
func ExampleSRV() {
	d := discovery.SRV("example.org")
	fmt.Println(d.Validate())
	// Output: <nil>
}

// The members of a Patroni cluster are the nodes. Several URLs are tried in turn.
func ExamplePatroni() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"scope": "shop", "members": [
			{"name": "pg1", "role": "leader", "state": "running", "host": "10.0.0.1", "port": 5432, "tags": {"az": "a"}},
			{"name": "pg2", "role": "sync_standby", "state": "streaming", "host": "10.0.0.2", "port": 5432, "tags": {"az": "b"}},
			{"name": "pg3", "role": "replica", "state": "creating replica", "host": "10.0.0.3", "port": 5432}]}`)
	}))
	defer api.Close()

	d := discovery.Patroni("http://127.0.0.1:1", api.URL)
	d.ZoneTag = "az"
	d.Scope = "shop"
	printNodes(d)
	// Output:
	// pg1 10.0.0.1 5432 a map[az:a]
	// pg2 10.0.0.2 5432 b map[az:b sync_standby:true]
}

// A file has a node in each line. It is watched.
func ExampleFile() {
	folder, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "nodes")
	if err := os.WriteFile(path, []byte("pg1 zone=a\npg2:5433 zone=b noloadbalance # reports\n"), 0o600); err != nil {
		log.Fatal(err)
	}

	for list, err := range discovery.File(path).Watch(context.Background()) {
		fmt.Println(len(list), err)
		break // hasql goes on; this example has seen enough
	}
	printNodes(discovery.File(path))
	// Output:
	// 2 <nil>
	// pg1:5432 pg1 5432 a map[]
	// pg2:5433 pg2 5433 b map[noloadbalance:true]
}

func ExampleStatic() {
	printNodes(discovery.Static(
		hasql.Endpoint{Host: "pg1", Zone: "a"},
		hasql.Endpoint{Host: "pg2", Zone: "b", Tags: map[string]string{"noloadbalance": "true"}},
	))
	// Output:
	// pg1:5432 pg1 5432 a map[]
	// pg2:5432 pg2 5432 b map[noloadbalance:true]
}

// Any endpoint of the cluster leads to those of its instances.
func ExampleAurora() {
	const cluster = "shop.cluster-cabc123.eu-central-1.rds.amazonaws.com"
	d := discovery.Aurora(discovery.ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, "postgres://app@"+cluster+"/shop?connect_timeout=2")
	}), cluster)
	fmt.Println(d.Validate())
	// Output: <nil>
}

func ExampleAuroraGlobal() {
	d := discovery.AuroraGlobal(discovery.ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, "postgres://app@shop.cluster-cabc123.eu-central-1.rds.amazonaws.com/shop")
	}), map[string]string{
		"eu-central-1": "shop.cluster-cabc123.eu-central-1.rds.amazonaws.com",
		"us-east-1":    "?.cdef456.us-east-1.rds.amazonaws.com",
	})
	fmt.Println(d.Validate())
	// Output: <nil>
}

func ExampleRDSMultiAZ() {
	d := discovery.RDSMultiAZ(discovery.ConnectEachTime(func(ctx context.Context) (*pgx.Conn, error) {
		return pgx.Connect(ctx, "postgres://app@shop.cluster-cabc123.eu-central-1.rds.amazonaws.com/shop")
	}))
	fmt.Println(d.Validate())
	// Output: <nil>
}

// A discoverer of one's own: what another system says, brought into form.
func ExampleNormalize() {
	list, err := discovery.Normalize([]hasql.Endpoint{
		{Host: "db.example.org", Addr: netip.MustParseAddr("10.0.0.2")},
		{Host: "db.example.org", Addr: netip.MustParseAddr("10.0.0.1")},
		{Host: "db.example.org", Addr: netip.MustParseAddr("10.0.0.2")},
	})
	for _, e := range list {
		fmt.Println(e.Name)
	}
	fmt.Println(err)
	// Output:
	// db.example.org:5432 (10.0.0.2)
	// db.example.org:5432 (10.0.0.1)
	// <nil>
}
