package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pghasql/hasql"
)

const dsnHelp = `The DSN names every node, as in postgres://app@pg1,pg2,pg3/shop or "host=pg1,pg2,pg3 user=app dbname=shop". docs/options.md lists
its options. Without a DSN the command takes DATABASE_URL, and without that PGHOST, PGSERVICE and libpq's other variables.

Do not put a password into the command line: ps shows it to everybody on this machine. Put it into DATABASE_URL, a
service file (PGSERVICE) or a password file (~/.pgpass).`

// closeLimit is how long a command waits for its connections to close when it ends.
const closeLimit = 2 * time.Second

// configure reads the DSN from the arguments or from the environment. A command can return its errors as they are.
func configure(cmd *cobra.Command, args []string) (*hasql.Config, error) {
	dsn := os.Getenv("DATABASE_URL")
	if len(args) > 0 {
		dsn = args[0]
	}
	if dsn == "" && cmp.Or(os.Getenv("PGHOST"), os.Getenv("PGHOSTADDR"), os.Getenv("PGSERVICE")) == "" {
		return nil, failed(cmd, exitUnable, errors.New("no cluster is named; give a DSN or set DATABASE_URL"))
	}
	config, err := hasql.ParseConfig(dsn)
	if err != nil {
		return nil, failed(cmd, exitUnable, err)
	}
	for _, n := range config.Nodes {
		n.Pool.MinConns, n.Pool.MinIdleConns = 0, 0 // a command needs no spare connections
		if n.Pool.ConnConfig.RuntimeParams["application_name"] == "" {
			n.Pool.ConnConfig.RuntimeParams["application_name"] = "hasql"
		}
	}
	if len(args) > 0 && holdsPassword(args[0], config) {
		fmt.Fprintln(cmd.ErrOrStderr(), "hasql: warning: everybody on this machine can see the password on the command line; set DATABASE_URL instead")
	}
	return config, nil
}

// holdsPassword reports whether the text of a DSN contains its password. The password may also come from a file or from the
// environment.
func holdsPassword(dsn string, config *hasql.Config) bool {
	if plain, err := url.PathUnescape(dsn); err == nil {
		dsn = plain
	}
	password := config.Nodes[0].Pool.ConnConfig.Password
	return password != "" && strings.Contains(dsn, password)
}

// open starts the PoolManager of a command. The caller must call closeAll at the end.
func open(cmd *cobra.Command, config *hasql.Config) (pm *hasql.PoolManager, closeAll func(), err error) {
	pm, err = hasql.NewWithConfig(cmd.Context(), config)
	if err != nil {
		return nil, nil, failed(cmd, exitUnable, err)
	}
	return pm, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), closeLimit)
		defer cancel()
		pm.Close(ctx) // the end of the process closes what is left after that
	}, nil
}

// failed returns the error that ends a command with a status. If the command was interrupted, the error says that instead of
// err.
func failed(cmd *cobra.Command, status int, err error) error {
	if cmd.Context().Err() != nil {
		return &exitError{exitInterrupted, cmd.Name() + ": interrupted"}
	}
	return &exitError{status, cmd.Name() + ": " + strings.TrimPrefix(err.Error(), "hasql: ")}
}
