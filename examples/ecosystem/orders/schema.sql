create table sqlc_orders (number bigint not null, item text not null);
