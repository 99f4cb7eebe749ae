// Package discovery finds out which nodes a PostgreSQL cluster has, for [github.com/pghasql/hasql].
//
// # When to choose what
//
//	DNS            one name with an address for each node, such as a headless service of Kubernetes
//	SRV            a domain with _postgresql._tcp records, which have ports and an order
//	Patroni        Patroni's REST API: knows tags, and members that are created or removed
//	File           a file that something else writes, such as a ConfigMap of Kubernetes
//	Static         a list in the program, which has zones and tags
//	Aurora         an Aurora cluster, by its SQL function
//	AuroraGlobal   an Aurora global database, by its SQL function
//	RDSMultiAZ     an RDS Multi-AZ DB cluster with two readable standbys, by its SQL function
//
// # What they have in common
//
// A discoverer says where nodes are. It never says which of them is the master: that comes from the nodes alone.
//
// The order of a list depends on what was answered and not on the order or the moment of the answers. No node is in it
// twice. An answer without any node is an error, which wraps [ErrNoNodes]. No error holds a password, the user of a URL
// or its query.
//
// Every discoverer can be used by several goroutines at once. Its fields must not be changed after its first use. Discover
// blocks until there is an answer, until its time limit is up or until ctx ends. If ctx ended, the error wraps ctx.Err(). A
// time limit of the discoverer's own does not look like that of the caller: its error is not context.DeadlineExceeded.
//
// Each type has a method Validate, which says what is wrong with its fields without asking anybody. Discover says the same.
//
// The discoverers for AWS are tested on fakes alone, which answer as AWS documents it: pgfake, and PostgreSQL with functions
// of the same names and columns. They were never run on AWS.
package discovery
