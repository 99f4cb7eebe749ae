// Command hasql shows the state of a PostgreSQL cluster, waits for its nodes, runs statements on them, and demonstrates
// failovers, through the library github.com/pghasql/hasql. "hasql help" lists its commands.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
