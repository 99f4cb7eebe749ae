package main

import (
	"context"
	"embed"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	tern "github.com/jackc/tern/v2/migrate"

	"github.com/pghasql/hasql"
)

//go:embed migrations
var migrations embed.FS

// migrate brings the tables up to date. It waits for a master. If several instances start together, one of them migrates and
// the others wait for it, because tern takes an advisory lock.
func migrate(ctx context.Context, pool *hasql.PoolManager) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return pool.Master().AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		migrator, err := tern.NewMigrator(ctx, conn.Conn(), "public.schema_version")
		if err != nil {
			return err
		}
		if err := migrator.LoadMigrations(files); err != nil {
			return err
		}
		return migrator.Migrate(ctx)
	})
}
