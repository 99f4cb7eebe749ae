package ecosystem

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

type orderArgs struct {
	Number int64 `json:"number"`
}

func (orderArgs) Kind() string { return "order" }

// orderWorker works a job and completes it in one transaction, so that no job is worked twice.
type orderWorker struct {
	river.WorkerDefaults[orderArgs]
	pool *pgxpool.Pool
}

func (w *orderWorker) Work(ctx context.Context, job *river.Job[orderArgs]) error {
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, `insert into river_orders values ($1)`, job.Args.Number); err != nil {
		return err
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// River insists on a *pgxpool.Pool. Route.Pool makes one that follows.
func TestRiver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool, err := open(t).Master().Pool(ctx)
	must(t, err)
	defer pool.Close()

	migrate, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	_, err = migrate.Migrate(ctx, rivermigrate.DirectionUp, nil)
	must(t, err)
	_, err = pool.Exec(ctx, `create table river_orders (number bigint)`)
	must(t, err)

	workers := river.NewWorkers()
	river.AddWorker(workers, &orderWorker{pool: pool})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}},
		Workers: workers,
		Logger:  slog.New(slog.DiscardHandler),
	})
	must(t, err)
	must(t, client.Start(context.WithoutCancel(ctx)))
	defer func() { must(t, client.Stop(ctx)) }()

	jobs := `(select (args->>'number')::bigint as number from river_job where kind = 'order') jobs`
	throughCrash(t, jobs, func(ctx context.Context, number int64) error {
		_, err := client.Insert(ctx, orderArgs{number}, nil)
		return err
	})

	// The workers go on, too.
	completed, unsubscribe := client.Subscribe(river.EventKindJobCompleted)
	defer unsubscribe()
	last, err := client.Insert(ctx, orderArgs{1_000_000}, nil)
	must(t, err)
	for id := int64(0); id != last.Job.ID; {
		select {
		case event := <-completed:
			id = event.Job.ID
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	checkNumbers(t, "river_orders", []int64{1_000_000})
}
