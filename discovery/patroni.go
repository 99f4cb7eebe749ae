package discovery

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultTimeout is how long a discoverer waits for one answer of an HTTP server or a database.
	DefaultTimeout = 2 * time.Second

	// DefaultMaxBytes is the longest answer or file that is read: 1 MiB, some thousand nodes.
	DefaultMaxBytes = 1 << 20

	maxHeaderBytes = 64 << 10
	maxLearned     = 16
)

// PatroniAPI finds the nodes by Patroni's REST API. [Patroni] makes one.
type PatroniAPI struct {
	// URLs are where the API is, of one member or several: http://pg1:8008. A path is kept, for a proxy in front of the API;
	// at its end /cluster and /patroni are as good as nothing. A user and a password in a URL are for that URL alone.
	URLs []string

	// User and Password are for all URLs that have none of their own, by basic authentication. The default is none, which
	// suffices for Patroni itself: it asks for them only where something is to be changed.
	User, Password string

	// TLS is for URLs with https. The default, nil, trusts the system's authorities.
	TLS *tls.Config

	// Timeout is how long one URL may take to answer. The default, 0, is [DefaultTimeout].
	Timeout time.Duration

	// MaxBytes is the longest answer that is read. The default, 0, is [DefaultMaxBytes].
	MaxBytes int64

	// ZoneTag is the tag of a member that becomes its Zone. The default, "", is the tag named zone.
	ZoneTag string

	// Scope is the name of the cluster in Patroni (scope). An answer for another cluster is refused, for the address of a
	// member may belong to somebody else one day. Patroni 3.0 and older do not tell it; their answers are taken. The
	// default, "", takes every answer.
	Scope string

	// OnlyURLs asks the URLs alone. The default, false, also asks the members of the last answer, after the URLs, so that
	// discovery goes on when every member that URLs names has been replaced.
	OnlyURLs bool

	// Transport carries the requests. The default, nil, connects directly, without the environment's proxy and without keeping
	// connections open. If it is set, TLS has no effect.
	Transport http.RoundTripper

	mu      sync.Mutex
	last    string   // the URL of the last good answer, without its user
	learned []string // the URLs of the members of that answer
}

// Patroni returns a discoverer for which the nodes are the members of a Patroni cluster, as GET /cluster tells them. See
// https://patroni.readthedocs.io/en/latest/rest_api.html.
//
// The URLs are asked one after another, beginning with the one that answered last; the first good answer is the result. An
// answer is good if it has status 200, is of the cluster that Scope names, and has a member that can be connected to. An answer
// without a leader may come from a member that is cut off: it is the result only if no URL has an answer with one.
//
// Members without a data directory as yet (creating replica, initializing new cluster and the like) are left out. All others are
// nodes, also those that are stopped or crashed: probes see that sooner. A member whose Patroni has been stopped for longer than ttl is
// not in the answer, even if its PostgreSQL runs.
//
// The nodes have their names in Patroni and are in the order of these. Their tags are those of Patroni (noloadbalance,
// nofailover, clonefrom and your own), and sync_standby or quorum_standby on synchronous standbys. State, role, timeline and lag are
// not among the tags: they change too often and are for probes to find out.
//
// Redirects are not followed. The user and the password go to the URLs that they were given for, and to no member that was
// found out by asking. A member found by https is never asked by http.
func Patroni(urls ...string) *PatroniAPI { return &PatroniAPI{URLs: slices.Clone(urls)} }

// Validate says what is wrong with the fields.
func (p *PatroniAPI) Validate() error {
	_, err := p.given()
	return err
}

// Discover asks for the members.
func (p *PatroniAPI) Discover(ctx context.Context) ([]Endpoint, error) {
	apis, err := p.apis()
	if err != nil {
		return nil, err
	}
	var second *patroniAnswer // of somebody who knows no leader
	var failed failures
	client := p.client()
	for _, api := range apis {
		answer, err := p.ask(ctx, client, api)
		if err == nil {
			second = cmp.Or(second, answer)
			if answer.leader {
				return p.take(answer), nil
			}
			continue
		}
		failed = append(failed, fmt.Errorf("%s: %w", api.name(), err))
		if ctx.Err() != nil {
			break
		}
	}
	if second != nil {
		return p.take(second), nil
	}
	return result("Patroni", nil, failed)
}

// take remembers where an answer came from and whom it names.
func (p *PatroniAPI) take(a *patroniAnswer) []Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.learned = a.from.url.String(), a.members
	return a.endpoints
}

// api is one URL to ask.
type api struct {
	url  *url.URL
	user *url.Userinfo
}

// name is how errors call it: without what may be secret.
func (a api) name() string { return a.url.Scheme + "://" + a.url.Host }

// given returns the URLs of the caller.
func (p *PatroniAPI) given() (apis []api, err error) {
	if len(p.URLs) == 0 {
		return nil, errors.New("hasql: discovery by Patroni: no URL")
	}
	if p.Timeout < 0 || p.MaxBytes < 0 {
		return nil, errors.New("hasql: discovery by Patroni: Timeout and MaxBytes must not be negative")
	}
	for i, text := range p.URLs {
		a, ok := parseAPI(text)
		if !ok { // it is not quoted: it may have a password
			return nil, fmt.Errorf("hasql: discovery by Patroni: URL %d does not have the form http://host:8008", i+1)
		}
		if a.user == nil && p.User != "" {
			a.user = url.UserPassword(p.User, p.Password)
		}
		apis = append(apis, a)
	}
	return apis, nil
}

// apis returns what to ask, in order: the URL that answered last, the other URLs, the members of the last answer.
func (p *PatroniAPI) apis() ([]api, error) {
	apis, err := p.given()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.learned {
		known := func(a api) bool { return a.url.Scheme+a.url.Host == apiOf(text).url.Scheme+apiOf(text).url.Host }
		if !p.OnlyURLs && !slices.ContainsFunc(apis, known) {
			apis = append(apis, apiOf(text))
		}
	}
	if i := slices.IndexFunc(apis, func(a api) bool { return a.url.String() == p.last }); i > 0 {
		first := apis[i]
		apis = slices.Insert(slices.Delete(apis, i, i+1), 0, first)
	}
	return apis, nil
}

func apiOf(text string) api {
	a, _ := parseAPI(text)
	return a
}

// parseAPI reads the URL of an API and makes it that of GET /cluster.
func parseAPI(text string) (a api, ok bool) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return api{}, false
	}
	a.user, u.User = u.User, nil
	path := strings.TrimRight(u.Path, "/")
	u.Path = strings.TrimSuffix(strings.TrimSuffix(path, "/cluster"), "/patroni") + "/cluster"
	u.RawPath, u.Fragment, u.RawFragment = "", "", ""
	a.url = u
	return a, true
}

// client makes what sends the requests of one Discover. It ends with them: it keeps no connection.
func (p *PatroniAPI) client() *http.Client {
	c := &http.Client{
		Transport:     p.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{
			TLSClientConfig:        p.TLS.Clone(),
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		}
	}
	return c
}

// ask asks one URL within its time.
func (p *PatroniAPI) ask(ctx context.Context, client *http.Client, a api) (*patroniAnswer, error) {
	timeout := cmp.Or(p.Timeout, DefaultTimeout)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := p.get(limited, client, a)
	switch {
	case err == nil:
		return p.read(a, body)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limited.Err() != nil:
		return nil, fmt.Errorf("no answer within %v", timeout)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the other half is the URL
	}
	return nil, err
}

func (p *PatroniAPI) get(ctx context.Context, client *http.Client, a api) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if a.user != nil {
		password, _ := a.user.Password()
		request.SetBasicAuth(a.user.Username(), password)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if to, err := response.Location(); err == nil && response.StatusCode/100 == 3 {
		return nil, fmt.Errorf("it redirects to %s, which is not followed", to.Host)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	return readAtMost(response.Body, cmp.Or(p.MaxBytes, DefaultMaxBytes))
}

// readAtMost refuses what is longer than the limit, and reads no more of it than that.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}

// failures are the reasons why no URL had a good answer.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
