// Command hasql shows what the library github.com/pghasql/hasql does. "hasql help" lists what it can do.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
