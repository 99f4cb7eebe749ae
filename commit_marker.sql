-- The table that makes the outcome of a COMMIT exact: see TxOptions.Marker of github.com/pghasql/hasql.
-- One row for each transaction that a process has open at the same time, updated in place.
create table if not exists hasql_commit (
    client uuid not null,
    slot int not null,
    seq bigint not null,
    at timestamptz not null default now(),
    primary key (client, slot)
) with (fillfactor = 50);
