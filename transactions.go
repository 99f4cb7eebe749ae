package hasql

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// InTx runs f in a transaction on the master. See [Route.InTx].
func (pm *PoolManager) InTx(ctx context.Context, options TxOptions, f func(ctx context.Context, tx pgx.Tx) error) error {
	return pm.routes[TargetMaster].InTx(ctx, options, f)
}

// ResolveCommit finds out what became of the transaction of a [CommitUnknownError]. It waits for a master until ctx ends, or
// AcquireTimeout. While it is still unknown the error is a *CommitUnknownError. Behind a marker it always becomes known once there is
// a master; without one less often than where the transaction ran, as this process has not seen what happened since.
func (pm *PoolManager) ResolveCommit(ctx context.Context, id CommitID) (applied bool, err error) {
	lost, err := id.parse()
	if err != nil {
		return false, err
	}
	return pm.routes[TargetMaster].commits().resolve(ctx, lost, lost.trace.Node)
}
