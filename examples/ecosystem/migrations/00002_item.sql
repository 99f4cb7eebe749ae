-- +goose Up
alter table goose_orders add column item text not null default 'shirt';

-- +goose Down
alter table goose_orders drop column item;
