//go:build !linux

package dsn

import "time"

// setUserTimeout does nothing: as in libpq, tcp_user_timeout is for systems that have it.
func setUserTimeout(uintptr, time.Duration) error { return nil }
