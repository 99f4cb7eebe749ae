package discovery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultFileInterval is the time between two looks at a file.
const DefaultFileInterval = time.Second

// HostFile finds the nodes in a file. [File] makes one.
type HostFile struct {
	// Path is where the file is. Symbolic links are followed at each look.
	Path string

	// Interval is the time between two looks of Watch. The default, 0, is [DefaultFileInterval].
	Interval time.Duration
}

// File returns a discoverer for which the nodes are in a file, in its order. It is also a [Watcher].
//
// The file has a node in each line: host or host:port, then what else there is to say, divided by blanks. name=, zone= and addr= are
// the fields of [Endpoint]; everything else is a tag, and a tag without a value is "true". Empty lines and what follows a # at the
// beginning of a word count for nothing:
//
//	pg1:5432    zone=a
//	pg2:5432    zone=b  noloadbalance   # reports
//	[::1]:5433  name=local
//
// Or it is JSON, an array of such hosts or of objects:
//
//	["pg1:5432", {"host": "pg2", "port": 5432, "zone": "b", "tags": {"noloadbalance": true}}]
//
// The whole file counts or nothing: a line that makes no sense is an error, and so is a file without a node ([ErrNoNodes]). Write a
// new file and rename it to the old name, as Kubernetes does for a ConfigMap; of a file that is written in place half may be
// read. A file may have [DefaultMaxBytes].
func File(path string) *HostFile { return &HostFile{Path: path} }

// Validate says what is wrong with the fields. It does not look at the file.
func (f *HostFile) Validate() error {
	switch {
	case f.Path == "":
		return errors.New("hasql: discovery by file: no path")
	case f.Interval < 0:
		return errors.New("hasql: discovery by file: Interval must not be negative")
	}
	return nil
}

// Discover reads the file.
func (f *HostFile) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	data, err := f.content(ctx)
	if err != nil {
		return result("file", nil, err) // which has the path already
	}
	endpoints, err := parseFile(data)
	return result("file "+f.Path, endpoints, err)
}

// Watch looks at the file every Interval. It compares what was read, not when the file was changed, so that it sees a change
// that keeps the size and the time, and the exchange of the symbolic link by which Kubernetes updates a ConfigMap.
func (f *HostFile) Watch(ctx context.Context) iter.Seq2[[]Endpoint, error] {
	return func(yield func([]Endpoint, error) bool) {
		timer := time.NewTimer(0)
		defer timer.Stop()
		var list []Endpoint
		var problem string
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			now, err := f.Discover(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && err.Error() != problem:
				problem = err.Error()
				if !yield(nil, err) {
					return
				}
			case err == nil && (problem != "" || !slices.EqualFunc(now, list, Endpoint.Equal)):
				list, problem = now, ""
				if copied, _ := Normalize(now); !yield(copied, nil) {
					return
				}
			}
			timer.Reset(cmp.Or(f.Interval, DefaultFileInterval))
		}
	}
}

// content reads the file. Anything but a file is refused, for to read a pipe may take for ever.
func (f *HostFile) content(ctx context.Context) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(f.Path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", f.Path)
	}
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := readAtMost(file, DefaultMaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return data, nil
}

// parseFile reads either form. No error quotes the file: somebody may have put a DSN with its password there.
func parseFile(data []byte) ([]Endpoint, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if isArray(bytes.TrimSpace(data)) {
		return parseJSON(data)
	}
	var list []Endpoint
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		words := strings.Fields(line)
		if i := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' }); i >= 0 {
			words = words[:i]
		}
		if len(words) == 0 {
			continue
		}
		e, err := parseWords(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		list = append(list, e)
	}
	return list, nil
}

// isArray tells an array from a line that begins with an IPv6 address in brackets.
func isArray(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, []byte("["))
	rest = bytes.TrimSpace(rest)
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(`"{]`), rest[0]) >= 0)
}

func parseWords(words []string) (e Endpoint, err error) {
	if e, err = parseHost(words[0]); err != nil {
		return e, err
	}
	for _, word := range words[1:] {
		key, value, given := strings.Cut(word, "=")
		switch {
		case key == "":
			return e, errors.New("a word that begins with =")
		case key == "name":
			e.Name = value
		case key == "zone":
			e.Zone = value
		case key == "addr":
			if e.Addr, err = netip.ParseAddr(value); err != nil {
				return e, errors.New("addr is not an address")
			}
		default:
			if e.Tags == nil {
				e.Tags = make(map[string]string)
			}
			if !given {
				value = "true"
			}
			e.Tags[key] = value
		}
	}
	return e, nil
}

// parseHost reads host, host:port, [address]:port or an address.
func parseHost(text string) (Endpoint, error) {
	host, port := text, ""
	if _, err := netip.ParseAddr(text); err != nil && strings.Contains(text, ":") {
		if host, port, err = net.SplitHostPort(text); err != nil {
			return Endpoint{}, errors.New("a node is written host or host:port")
		}
	}
	e := Endpoint{Host: host}
	if port != "" {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return Endpoint{}, errors.New("a port is a number from 1 to 65535")
		}
		e.Port = uint16(number)
	}
	return e, checkHost(host)
}

// fileNode is a node in JSON: an object, or the text of a host.
type fileNode struct {
	Name string     `json:"name"`
	Host string     `json:"host"`
	Port uint16     `json:"port"`
	Addr netip.Addr `json:"addr"`
	Zone string     `json:"zone"`
	Tags tags       `json:"tags"`
}

func parseJSON(data []byte) ([]Endpoint, error) {
	var nodes []json.RawMessage
	if err := json.Unmarshal(data, &nodes); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	var list []Endpoint
	for i, node := range nodes {
		e, err := parseNode(node)
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", i+1, err)
		}
		list = append(list, e)
	}
	return list, nil
}

func parseNode(data []byte) (Endpoint, error) {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return parseHost(text)
	}
	var n fileNode
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields() // a tag beside the tags is a mistake
	if err := decoder.Decode(&n); err != nil {
		return Endpoint{}, errors.New("a node has name, host, port, addr, zone and tags, and nothing else")
	}
	return Endpoint{Name: n.Name, Host: n.Host, Port: n.Port, Addr: n.Addr, Zone: n.Zone, Tags: n.Tags}, checkHost(n.Host)
}
