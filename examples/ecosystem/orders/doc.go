// Package orders has the form of what sqlc writes for schema.sql and query.sql with sqlc.yaml. It is kept by hand, so that the
// tests need no sqlc.
package orders
