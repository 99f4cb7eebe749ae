// Package hasql routes the work of a service over a highly available PostgreSQL cluster.
package hasql
