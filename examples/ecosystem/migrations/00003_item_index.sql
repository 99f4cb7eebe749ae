-- +goose NO TRANSACTION
-- +goose Up
create index concurrently goose_orders_item on goose_orders (item);

-- +goose Down
drop index concurrently goose_orders_item;
