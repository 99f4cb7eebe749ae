package hasql

import "fmt"

// Target is the kind of node that an acquire wants.
type Target uint8

const (
	// TargetAny is any node that is up.
	TargetAny Target = iota
	// TargetMaster is a node that accepts writes.
	TargetMaster
	// TargetReplica is a read-only node. With FallbackMaster it is the master while no replica fits.
	TargetReplica
	// TargetPreferReplica is a replica, or the master while no replica fits.
	TargetPreferReplica

	targets = int(TargetPreferReplica) + 1
)

func (t Target) String() string {
	if int(t) >= targets {
		return fmt.Sprintf("Target(%d)", uint8(t))
	}
	return [...]string{"node", "master", "replica", "replica or master"}[t]
}
