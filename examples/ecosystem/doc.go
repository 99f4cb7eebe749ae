// Package ecosystem shows hasql under the libraries that Go services use with PostgreSQL. Each file is one library, with what
// a service writes to use it. All of them run on one real cluster, whose master is killed in the middle of their writes.
package ecosystem
