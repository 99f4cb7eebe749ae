-- name: CreateOrder :exec
insert into sqlc_orders (number, item) values ($1, $2);

-- name: FirstOrder :one
select number, item from sqlc_orders order by number limit 1;
