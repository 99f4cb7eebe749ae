//go:build unix

package discovery

import (
	"path/filepath"
	"syscall"
	"testing"
)

// Reading a pipe would wait for a writer, whatever the context says.
func TestFileRefusesAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := File(path).Discover(t.Context())
	check(t, list, err, "", path+" is not a file")
}
