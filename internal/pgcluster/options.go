package pgcluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Options configure the cluster that [Start] makes. The zero value is a master alone, with trust authentication.
type Options struct {
	// Replicas is the number of streaming replicas; there is one master besides. Default 0.
	Replicas int

	// BinDir is the folder of PostgreSQL's server programs. Default "": [FindBinDir].
	BinDir string

	// Parameters are settings for every node's postgresql.conf: names, and values without quotes. They override the package's
	// own settings, such as fsync = off.
	Parameters map[string]string

	// Password is what every node asks for, by scram-sha-256. The DSNs contain it. It must not contain control characters.
	// Default "": trust authentication. In both cases a node listens only on its own address.
	Password string

	// HBA are lines of pg_hba.conf that come before the package's own lines on every node. The package's own lines admit every
	// client on the node's network, with the Password if there is one. Default nil: none.
	HBA []string

	// Prepare is called for each node before its first start, from several goroutines at once. It may write files that Parameters
	// name, with [Node.WriteFile]. Default nil: nothing is done.
	Prepare func(*Node) error

	// Hosts are the hosts of the nodes, one for each. Default nil: all nodes are on 127.0.0.1.
	Hosts []Host

	// Logf logs each step, as [testing.T.Logf] does. Several goroutines may call it. It never gets a password. Default nil:
	// nothing is logged.
	Logf func(format string, args ...any)
}

// Host is the host of a node: an address, which may be in a network namespace.
type Host struct {
	// IP is the address that the node listens on.
	IP string

	// Do runs a function in the host's network and waits for its end. Processes that the function starts and sockets that it
	// opens belong to that network.
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

// ownSettings are the settings of every node. Options.Parameters override them.
var ownSettings = map[string]string{
	"unix_socket_directories": "", // sockets of several nodes in one folder get into each other's way
	"max_connections":         "100",
	"shared_buffers":          "16MB",
	"fsync":                   "off",
	"wal_level":               "replica",
	"max_wal_senders":         "10",
	"wal_keep_size":           "256MB", // a replica finds the WAL that it missed while it was away
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

// settings are the settings that differ between nodes.
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

// hba returns a pg_hba.conf: the given lines, and one authentication method for every client in the host's network.
func hba(lines []string, method string) string {
	all := append(slices.Clone(lines), "host all all samenet "+method, "host replication all samenet "+method)
	return strings.Join(all, "\n") + "\n"
}
