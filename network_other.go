//go:build !linux

package hasql

import "time"

// setUserTimeout does nothing: as in libpq, tcp_user_timeout is for systems that have it.
func setUserTimeout(uintptr, time.Duration) error { return nil }
