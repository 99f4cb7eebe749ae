//go:build linux

// Package netlab makes a network of hosts, each with an address and a firewall of its own, within this process: network
// namespaces that are joined by a bridge. Nothing of it is seen in the machine's own network, and nothing of it outlives
// the process.
//
// A host is entered by [Host.Do]: what a function opens or starts there lives in the host's network, wherever it is used
// afterwards. Between hosts, packets of one direction may be made to vanish ([Lab.Cut]) or to be answered by a reset
// ([Lab.Refuse]).
//
// It takes the right to make namespaces (root) and the programs ip and iptables.
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

	hub *Host // has the bridge and no address
}

// Host is one machine of a Lab.
type Host struct {
	IP string

	namespace *os.File // keeps it alive
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

// Close gives the hosts up; they end with the last process and socket in them.
func (l *Lab) Close() {
	for _, h := range append(l.Hosts, l.hub) {
		if h != nil {
			h.namespace.Close()
		}
	}
}

// Cut makes what one host sends to another vanish.
func (l *Lab) Cut(from, to *Host) error { return to.block(from, "DROP") }

// Refuse has what one host sends to another by TCP answered by a reset.
func (l *Lab) Refuse(from, to *Host) error {
	return to.block(from, "REJECT", "--reject-with", "tcp-reset")
}

// Heal ends all that Cut and Refuse did.
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

// Do runs f to its end in the host's network.
func (h *Host) Do(f func()) {
	err := onThread(func() error {
		if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		f()
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("netlab: enter the network of %s: %v", h.IP, err)) // who made a namespace may enter it
	}
}

// onThread runs f on a thread that ends with it, for nobody else may run where f has gone.
func onThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: so the goroutine's end is the thread's
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
