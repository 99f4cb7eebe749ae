// Package pgerr says what errors of PostgreSQL and pgx mean for a client of several nodes: the server is gone, refuses the
// client, or is silent, or only one statement has failed. It knows no nodes and no roles.
package pgerr
