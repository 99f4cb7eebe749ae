-- +goose Up
create table goose_orders (number bigint not null);

-- +goose Down
drop table goose_orders;
