// Package nodepool is the pool of one node. It wraps a pgxpool.Pool. It can fence the node and lift that, cuts connections with
// a reason, limits dials, counts the connections that are lent, and notices what the traffic shows about the node.
//
// It knows nothing of roles and of other nodes. [Pool.SetNodeStatus] tells it the state of the node. It reports to a
// [TrafficObserver] what the traffic suggests.
package nodepool
