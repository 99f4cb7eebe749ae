package ecosystem

import (
	"context"
	"testing"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/pghasql/hasql/stdlib"
)

type gormOrder struct {
	ID     int64
	Number int64
	Item   string
}

// GORM's driver for PostgreSQL takes a *sql.DB as its Conn. GORM runs each Create in a transaction.
func TestGORM(t *testing.T) {
	pool := open(t)
	conn := stdlib.OpenDB(pool.Master())
	defer conn.Close()
	db, err := gorm.Open(postgres.New(postgres.Config{Conn: conn}), &gorm.Config{Logger: logger.Discard})
	must(t, err)

	must(t, db.WithContext(t.Context()).AutoMigrate(&gormOrder{}))
	throughCrash(t, "gorm_orders", func(ctx context.Context, number int64) error {
		return db.WithContext(ctx).Create(&gormOrder{Number: number, Item: "shirt"}).Error
	})

	var first gormOrder
	must(t, db.WithContext(t.Context()).Order("number").First(&first).Error)
	if first.Number != 1 || first.Item != "shirt" {
		t.Error(first)
	}
}
