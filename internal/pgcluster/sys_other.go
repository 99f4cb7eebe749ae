//go:build !linux

package pgcluster

import (
	"errors"
	"fmt"
	"syscall"
)

const (
	sigKill      = syscall.Signal(0)
	sigFreeze    = syscall.Signal(0)
	sigThaw      = syscall.Signal(0)
	sigReload    = syscall.Signal(0)
	sigSmart     = syscall.Signal(0)
	sigFast      = syscall.Signal(0)
	sigImmediate = syscall.Signal(0)
)

func supported() error {
	return fmt.Errorf("pgcluster: needs Linux: %w", errors.ErrUnsupported)
}

func send(int, syscall.Signal) error           { return supported() }
func tempDir() (string, error)                 { return "", supported() }
func killGroup(int) error                      { return supported() }
func serverAccount() (account, error)          { return account{}, supported() }
func sessionAttr(account) *syscall.SysProcAttr { return nil }
func ownedBy(string, account) error            { return supported() }

type port struct{ number int }

func reservePort() (*port, error) { return nil, supported() }
func (p *port) release()          {}
