//go:build linux

// Package netlab makes a network of hosts within this process. Each host is a network namespace with an address and a firewall
// of its own; a bridge joins them. The machine's own network does not see the lab, and the lab ends with the process.
//
// [Host.Do] runs a function in the host's network. Sockets and processes that the function opens or starts stay in that
// network, wherever they are used afterwards. [Lab.Cut] drops the packets from one host to another, and [Lab.Refuse] answers
// them by a reset.
//
// The package needs the right to make namespaces (root) and the programs ip and iptables.
package netlab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is in the chain of [New]'s error if this process may not make namespaces, or a program is missing.
var ErrUnavailable = errors.New("no network namespaces")

// Lab is a network of hosts.
type Lab struct {
	Hosts []*Host

	hub *Host // holds the bridge; has no address
}

// Host is one machine of a Lab.
type Host struct {
	IP string

	namespace *os.File // keeps the namespace alive
}

// New makes a network of n hosts. [Lab.Close] ends it.
func New(n int) (lab *Lab, err error) {
	for _, program := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	lab = &Lab{}
	defer func() {
		if err != nil {
			lab.Close()
		}
	}()
	if lab.hub, err = newHost(""); err != nil {
		return nil, err
	}
	if err := lab.hub.ip("link add br0 type bridge", "link set br0 up"); err != nil {
		return nil, err
	}
	for i := range n {
		host, err := newHost(fmt.Sprintf("10.77.0.%d", i+10))
		if err != nil {
			return nil, err
		}
		lab.Hosts = append(lab.Hosts, host)
		port := fmt.Sprintf("port%d", i)
		err = lab.hub.ip(
			fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/fd/%d", port, os.Getpid(), host.namespace.Fd()),
			"link set "+port+" master br0 up")
		if err == nil {
			err = host.ip("link set lo up", "addr add "+host.IP+"/24 dev eth0", "link set eth0 up")
		}
		if err != nil {
			return nil, err
		}
	}
	return lab, nil
}

// Close releases the hosts. A host ends when its last process and socket end.
func (l *Lab) Close() {
	for _, h := range append(l.Hosts, l.hub) {
		if h != nil {
			h.namespace.Close()
		}
	}
}

// Cut drops everything that one host sends to another.
func (l *Lab) Cut(from, to *Host) error { return to.block(from, "DROP") }

// Refuse answers everything that one host sends to another by TCP with a reset.
func (l *Lab) Refuse(from, to *Host) error {
	return to.block(from, "REJECT", "--reject-with", "tcp-reset")
}

// Heal undoes every Cut and Refuse.
func (l *Lab) Heal() error {
	var errs []error
	for _, h := range l.Hosts {
		errs = append(errs, h.run("", "iptables", "-w", "-F", "INPUT"))
	}
	return errors.Join(errs...)
}

func (h *Host) block(from *Host, how ...string) error {
	return h.run("", "iptables", append([]string{"-w", "-A", "INPUT", "-p", "tcp", "-s", from.IP, "-j"}, how...)...)
}

func newHost(ip string) (*Host, error) {
	h := &Host{IP: ip}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("%w: unshare: %w", ErrUnavailable, err)
		}
		h.namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return h, err
}

// Do runs f in the host's network and waits for its end.
func (h *Host) Do(f func()) {
	err := onThread(func() error {
		if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		f()
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("netlab: enter the network of %s: %v", h.IP, err)) // this process made the namespace, so it may enter it
	}
}

// onThread runs f on a thread of its own, which ends after f. No other goroutine may run on that thread, because f has
// changed its network.
func onThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		ended <- f()
	}()
	return <-ended
}

// ip runs commands of ip(8) on the host.
func (h *Host) ip(commands ...string) error {
	return h.run(strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
}

func (h *Host) run(stdin, program string, args ...string) (err error) {
	var out []byte
	h.Do(func() {
		cmd := exec.Command(program, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
	})
	if err != nil {
		return fmt.Errorf("netlab: %s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}
