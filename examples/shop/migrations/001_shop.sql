create table brands (
	id   bigint generated always as identity primary key,
	name text not null unique
);

create table products (
	id       bigint generated always as identity primary key,
	brand_id bigint not null references brands,
	name     text not null,
	unique (brand_id, name)
);

create table skus (
	id         bigint generated always as identity primary key,
	product_id bigint not null references products,
	size       text not null,
	colour     text not null,
	stock      int not null default 0 check (stock >= 0),
	unique (product_id, size, colour)
);
---- create above / drop below ----
drop table skus, products, brands;
