package ecosystem

import (
	"embed"
	"io/fs"
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/pghasql/hasql/stdlib"
)

//go:embed migrations/*.sql
var migrations embed.FS

// goose takes a *sql.DB. Its lock keeps other instances of the service, which start at the same moment, from migrating as well.
// Each migration goes up, down and up again. Before the last one the master is killed: goose goes on with the next master.
func TestGoose(t *testing.T) {
	pool := open(t)
	db := stdlib.OpenDB(pool.Master())
	defer db.Close()

	files, err := fs.Sub(migrations, "migrations")
	must(t, err)
	locker, err := lock.NewPostgresSessionLocker()
	must(t, err)
	migrate, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	must(t, err)

	ctx := t.Context()
	all := migrate.ListSources()
	for i := range all {
		if i == len(all)-1 {
			must(t, crash(ctx))
		}
		for _, step := range []func() (*goose.MigrationResult, error){
			func() (*goose.MigrationResult, error) { return migrate.UpByOne(ctx) },
			func() (*goose.MigrationResult, error) { return migrate.Down(ctx) },
			func() (*goose.MigrationResult, error) { return migrate.UpByOne(ctx) },
		} {
			result, err := step()
			must(t, err)
			if result.Source.Version != all[i].Version {
				t.Errorf("migration %d ran instead of %d", result.Source.Version, all[i].Version)
			}
		}
	}

	_, err = migrate.DownTo(ctx, 0)
	must(t, err)
	done, err := migrate.Up(ctx)
	must(t, err)
	if len(done) != len(all) {
		t.Errorf("%d migrations of %d ran", len(done), len(all))
	}
}
