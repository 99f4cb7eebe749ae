// Package dsn reads connection strings for several hosts as libpq does, with pgx's parser: the hosts, the settings of the
// sockets, and the keys that pgx does not know. It makes the configuration of each host's pool, and does not know how that is
// used. None of its errors contains a part of the DSN that could be a password.
package dsn
