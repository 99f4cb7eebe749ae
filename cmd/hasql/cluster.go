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

// closeLimit is the patience with nodes when a command ends.
const closeLimit = 2 * time.Second

// configure reads the DSN of the arguments or of the environment. The errors are ready to be returned from a command.
func configure(cmd *cobra.Command, args []string) (*hasql.Config, error) {
	dsn := os.Getenv("DATABASE_URL")
	if len(args) > 0 {
		dsn = args[0]
	}
	if dsn == "" && cmp.Or(os.Getenv("PGHOST"), os.Getenv("PGHOSTADDR"), os.Getenv("PGSERVICE")) == "" {
		return nil, failed(cmd, exitUnable, errors.New("which cluster? Give a DSN or set DATABASE_URL"))
	}
	config, err := hasql.ParseConfig(dsn)
	if err != nil {
		return nil, failed(cmd, exitUnable, err)
	}
	for _, n := range config.Nodes {
		n.Pool.MinConns, n.Pool.MinIdleConns = 0, 0 // a look needs no connections in store
		if n.Pool.ConnConfig.RuntimeParams["application_name"] == "" {
			n.Pool.ConnConfig.RuntimeParams["application_name"] = "hasql"
		}
	}
	if len(args) > 0 && holdsPassword(args[0], config) {
		fmt.Fprintln(cmd.ErrOrStderr(), "hasql: warning: the password on the command line is for everybody on this machine to see; set DATABASE_URL instead")
	}
	return config, nil
}

// holdsPassword reports whether the password that a DSN leads to stands in its text.
func holdsPassword(dsn string, config *hasql.Config) bool {
	if plain, err := url.PathUnescape(dsn); err == nil {
		dsn = plain
	}
	password := config.Nodes[0].Pool.ConnConfig.Password
	return password != "" && strings.Contains(dsn, password)
}

// open starts the PoolManager of a command, which close ends.
func open(cmd *cobra.Command, config *hasql.Config) (pm *hasql.PoolManager, closeAll func(), err error) {
	pm, err = hasql.NewWithConfig(cmd.Context(), config)
	if err != nil {
		return nil, nil, failed(cmd, exitUnable, err)
	}
	return pm, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), closeLimit)
		defer cancel()
		pm.Close(ctx) // what is left after that ends with the process
	}, nil
}

// failed makes err the end of a command, or its interruption if that is what ended it.
func failed(cmd *cobra.Command, status int, err error) error {
	if cmd.Context().Err() != nil {
		return &exitError{exitInterrupted, cmd.Name() + ": interrupted"}
	}
	return &exitError{status, cmd.Name() + ": " + strings.TrimPrefix(err.Error(), "hasql: ")}
}

// counted writes a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
