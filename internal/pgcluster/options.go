package pgcluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Options say what cluster [Start] makes. The zero value is a master alone, with trust authentication.
type Options struct {
	// Replicas is the number of streaming replicas next to the one master. Default 0.
	Replicas int

	// BinDir is the folder of PostgreSQL's server programs. Default "": [FindBinDir].
	BinDir string

	// Parameters are settings for every node's postgresql.conf, name to value without quotes. They win over the
	// package's own, such as fsync = off.
	Parameters map[string]string

	// Password, if not "", makes every node ask for it by scram-sha-256; the DSNs hold it. It must not hold control
	// characters. Default "": trust authentication. Only the node's own address is listened on either way.
	Password string

	// HBA are lines of pg_hba.conf that every node reads before the package's own, which let everybody in who is on the
	// node's network, with the Password if there is one. Default nil: none.
	HBA []string

	// Prepare is called for each node before its first start, for all at once: it may put files beside the node with
	// [Node.WriteFile] that Parameters name. Default nil: nothing is done.
	Prepare func(*Node) error

	// Hosts are where the nodes live, one for each. Default nil: all on 127.0.0.1.
	Hosts []Host

	// Logf is told of each step, in the manner of [testing.T.Logf]; calls may come from several goroutines.
	// Default nil: silence. Passwords are never told.
	Logf func(format string, args ...any)
}

// Host is where a node lives: an address of its own, in a network namespace perhaps.
type Host struct {
	// IP is the address that the node listens on.
	IP string

	// Do runs a function to its end where the address is: the processes that it starts and the sockets that it opens
	// are in the host's network.
	Do func(func())
}

var localhost = Host{IP: "127.0.0.1", Do: func(f func()) { f() }}

func (o Options) check() error {
	if o.Replicas < 0 {
		return fmt.Errorf("pgcluster: Options.Replicas is %d", o.Replicas)
	}
	if o.Hosts != nil && len(o.Hosts) != o.Replicas+1 {
		return fmt.Errorf("pgcluster: %d Options.Hosts for %d nodes", len(o.Hosts), o.Replicas+1)
	}
	if strings.ContainsFunc(o.Password, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("pgcluster: Options.Password holds control characters")
	}
	return nil
}

func (o Options) logf(format string, args ...any) {
	if o.Logf != nil {
		o.Logf("pgcluster: "+format, args...)
	}
}

// ownSettings are what every node runs with unless Options.Parameters say otherwise.
var ownSettings = map[string]string{
	"unix_socket_directories": "", // sockets of several nodes in one folder get into each other's way
	"max_connections":         "100",
	"shared_buffers":          "16MB",
	"fsync":                   "off",
	"wal_level":               "replica",
	"max_wal_senders":         "10",
	"wal_keep_size":           "256MB", // a replica that was away for long finds what it missed
	"max_wal_size":            "256MB",
	"wal_log_hints":           "on", // pg_rewind asks for it
	"full_page_writes":        "on", // so does it for this
	"hot_standby":             "on",
	// A replica looks for its lost master ten times a second instead of every 5 s.
	"wal_retrieve_retry_interval": "100ms",
	"password_encryption":         "scram-sha-256",
	// Shared memory of parallel queries lies in the data directory, not in /dev/shm, where a killed server's stays.
	"dynamic_shared_memory_type": "mmap",
	"logging_collector":          "off",
	"log_destination":            "stderr",
	"log_line_prefix":            "%m [%p] %a ",
	"lc_messages":                "C",
	"timezone":                   "UTC",
	"log_timezone":               "UTC",
}

// settings are what stands in one node's postgresql.conf beyond ownSettings and Options.Parameters.
type settings struct {
	ip          string
	port        int
	name        string // cluster_name: shown by ps
	hbaFile     string
	primary     string // primary_conninfo; "" follows nobody
	synchronous string // synchronous_standby_names
}

// render writes a postgresql.conf.
func (s settings) render(parameters map[string]string) string {
	all := maps.Clone(ownSettings)
	maps.Copy(all, map[string]string{
		"listen_addresses":          s.ip,
		"port":                      fmt.Sprint(s.port),
		"cluster_name":              s.name,
		"hba_file":                  s.hbaFile,
		"primary_conninfo":          s.primary,
		"synchronous_standby_names": s.synchronous,
	})
	maps.Copy(all, parameters)
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = '%s'\n", name, confEscaper.Replace(all[name]))
	}
	return conf.String()
}

// A quote is doubled and a backslash too inside the quotes of postgresql.conf.
var confEscaper = strings.NewReplacer(`'`, `''`, `\`, `\\`, "\n", `\n`)

// hba renders pg_hba.conf: the lines given, and one method of authentication for everybody in the host's network, be that
// this machine.
func hba(lines []string, method string) string {
	all := append(slices.Clone(lines), "host all all samenet "+method, "host replication all samenet "+method)
	return strings.Join(all, "\n") + "\n"
}
