package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pghasql/hasql/internal/testenv"
)

// member is a member as Patroni 3.0.2 tells it.
func member(name, role, state string) string {
	return fmt.Sprintf(`{"name": %q, "role": %q, "state": %q, "api_url": "http://192.0.2.1:1/patroni", "host": %q, "port": 5432,
		"timeline": 3, "lag": 0}`, name, role, state, name+".test")
}

func cluster(members ...string) string { return `{"members": [` + strings.Join(members, ", ") + `]}` }

var healthy = cluster(member("pg1", "leader", "running"), member("pg2", "replica", "streaming"))

const healthyList = "pg1=pg1.test:5432 pg2=pg2.test:5432"

// serve starts a server that answers everything in one way.
func serve(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/cluster" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestPatroniMembers(t *testing.T) {
	for _, test := range []struct {
		name, body, want string
		edit             func(*PatroniAPI)
		problems         []string
	}{
		{name: "as Patroni 3 tells them", body: healthy, want: healthyList},
		{
			name: "as Patroni 4 tells them",
			body: `{"members": [
				{"name": "pg2", "role": "quorum_standby", "state": "streaming", "api_url": "https://10.0.0.2:8008/patroni", "host": "10.0.0.2",
				 "port": 5433, "timeline": 5, "tags": {"clonefrom": true, "zone": "b", "weight": 1.50}, "receive_lsn": "0/4000060",
				 "receive_lag": 0, "replay_lsn": "0/4000060", "replay_lag": 0, "lsn": "0/4000060", "lag": 0},
				{"name": "pg1", "role": "leader", "state": "running", "api_url": "https://10.0.0.1:8008/patroni", "host": "10.0.0.1",
				 "timeline": 5, "tags": {"nofailover": true, "zone": "a"}, "pending_restart": true,
				 "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "101"}}},
				{"name": "pg3", "role": "replica", "state": "in archive recovery", "api_url": "https://10.0.0.3:8008/patroni", "host": "fd00::3",
				 "port": 5432, "tags": {"noloadbalance": true, "zone": "c", "note": null}, "receive_lag": "unknown", "receive_lsn": "unknown", "lag": "unknown"}],
				"pause": true, "scheduled_switchover": {"at": "2026-11-21T15:00:00+00:00", "from": "pg1"}, "scope": "shop"}`,
			want: "pg1=10.0.0.1:5432@a{nofailover:true zone:a} pg2=10.0.0.2:5433@b{clonefrom:true quorum_standby:true weight:1.50 zone:b} " +
				"pg3=fd00::3:5432@c{noloadbalance:true zone:c}",
		},
		{
			name: "a synchronous standby", body: cluster(member("pg1", "leader", "running"), member("pg2", "sync_standby", "streaming")),
			want: "pg1=pg1.test:5432 pg2=pg2.test:5432{sync_standby:true}",
		},
		{
			name: "a zone by another tag", body: `{"members": [{"name": "a", "role": "leader", "host": "a", "tags": {"az": "eu-1a", "zone": "x"}}]}`,
			edit: func(p *PatroniAPI) { p.ZoneTag = "az" }, want: "a=a:5432@eu-1a{az:eu-1a zone:x}",
		},
		{
			name: "members without data are no nodes, stopped ones are", body: cluster(member("pg1", "leader", "running"),
				member("pg2", "replica", "creating replica"), member("pg3", "replica", "stopped"), member("pg4", "replica", "crashed"),
				member("pg5", "replica", "starting"), member("pg6", "uninitialized", "initdb failed"), member("pg7", "replica", "never heard of")),
			want: "pg1=pg1.test:5432 pg3=pg3.test:5432 pg4=pg4.test:5432 pg5=pg5.test:5432 pg7=pg7.test:5432",
		},
		{name: "a member without a host", body: `{"members": [{"name": "a", "role": "leader", "host": "a"}, {"name": "b"}]}`, want: "a=a:5432"},
		{
			name: "one server twice", want: "a=a:5432",
			body: `{"members": [{"name": "a", "role": "leader", "host": "a"}, {"name": "b", "host": "a", "port": 5432}]}`,
		},
		{
			name: "a standby cluster", body: cluster(member("pg1", "standby_leader", "streaming"), member("pg2", "replica", "streaming")),
			want: healthyList,
		},
		{name: "no leader", body: cluster(member("pg2", "replica", "running"), member("pg1", "replica", "running")), want: healthyList},
		{name: "no members", body: cluster(), problems: []string{ErrNoNodes.Error(), "it lists 0 members"}},
		{
			name: "no member with data", body: cluster(member("pg1", "replica", "initializing new cluster")),
			problems: []string{ErrNoNodes.Error(), "it lists 1 members"},
		},
		{name: "another object", body: `{"error": "no"}`, problems: []string{ErrNoNodes.Error()}},
		{name: "null", body: `null`, problems: []string{ErrNoNodes.Error()}},
		{name: "an array", body: `[]`, problems: []string{"something else than the JSON of GET /cluster"}},
		{name: "a page", body: `<html>Sign in</html>`, problems: []string{"something else than the JSON of GET /cluster"}},
		{name: "nothing", body: ``, problems: []string{"something else than the JSON of GET /cluster"}},
		{name: "half", body: healthy[:len(healthy)/2], problems: []string{"something else than the JSON of GET /cluster"}},
		{name: "more than JSON", body: healthy + healthy, problems: []string{"something else than the JSON of GET /cluster"}},
		{name: "an impossible port", body: `{"members": [{"name": "a", "host": "a", "port": 70000}]}`, problems: []string{"something else than"}},
		{name: "an impossible host", body: `{"members": [{"name": "a", "host": "/tmp"}]}`, problems: []string{"neither a name nor an address"}},
		{
			name: "one name twice", body: `{"members": [{"name": "a", "host": "a"}, {"name": "a", "host": "b"}]}`,
			problems: []string{`two nodes have the name "a"`},
		},
		{
			name: "another cluster", body: `{"members": [` + member("pg1", "leader", "running") + `], "scope": "other"}`,
			edit: func(p *PatroniAPI) { p.Scope = "shop" }, problems: []string{`for the cluster "other", not for "shop"`},
		},
		{
			name: "the right cluster", body: `{"members": [` + member("pg1", "leader", "running") + `], "scope": "shop"}`,
			edit: func(p *PatroniAPI) { p.Scope = "shop" }, want: "pg1=pg1.test:5432",
		},
		{name: "an old Patroni tells no cluster", body: healthy, edit: func(p *PatroniAPI) { p.Scope = "shop" }, want: healthyList},
		{
			name: "too long", body: healthy + strings.Repeat(" ", 1000), edit: func(p *PatroniAPI) { p.MaxBytes = 1000 },
			problems: []string{"more than 1000 bytes"},
		},
		{name: "as long as may be", body: healthy, edit: func(p *PatroniAPI) { p.MaxBytes = int64(len(healthy)) }, want: healthyList},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := Patroni(serve(t, answers(http.StatusOK, test.body)).URL)
			if test.edit != nil {
				test.edit(p)
			}
			list, err := p.Discover(t.Context())
			check(t, list, err, test.want, test.problems...)
		})
	}
}

// endless writes for ever, until the client has enough.
func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
			return
		}
	}
}

// hangUp ends the connection in the middle of what it has announced.
func hangUp(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "10000")
	io.WriteString(w, healthy)
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestPatroniTriesEachURL(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	bad := []struct {
		url, problem string
	}{
		{gone.URL, "connection refused"},
		{serve(t, answers(http.StatusServiceUnavailable, healthy)).URL, "it answers 503 Service Unavailable"},
		{serve(t, answers(http.StatusUnauthorized, healthy)).URL, "it answers 401 Unauthorized"},
		{serve(t, answers(http.StatusNoContent, "")).URL, "it answers 204 No Content"},
		{serve(t, answers(http.StatusOK, "<html>")).URL, "something else than the JSON of GET /cluster"},
		{serve(t, answers(http.StatusOK, cluster())).URL, "no nodes"},
		{serve(t, hangUp).URL, "unexpected EOF"},
		{serve(t, endless).URL, "more than 1048576 bytes"},
		{serve(t, http.RedirectHandler("http://user:geheim@elsewhere.test/?token=geheim", http.StatusFound).ServeHTTP).URL, "it redirects to elsewhere.test"},
	}
	var urls []string
	for _, b := range bad {
		urls = append(urls, strings.Replace(b.url, "http://", "http://app:geheim@", 1)+"?token=geheim")
	}
	_, err := Patroni(urls...).Discover(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, b := range bad {
		if want := b.url + ": "; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), b.problem) {
			t.Errorf("the error does not say %q and %q:\n%v", want, b.problem, err)
		}
	}
	for _, secret := range []string{"geheim", "app"} {
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
			t.Errorf("the error tells %q:\n%v", secret, err)
		}
	}

	good := serve(t, answers(http.StatusOK, healthy))
	list, err := Patroni(append(urls, good.URL)...).Discover(t.Context())
	check(t, list, err, healthyList)
}

func TestPatroniURLs(t *testing.T) {
	for text, want := range map[string]string{
		"http://pg1:8008":                     "http://pg1:8008/cluster",
		" http://pg1:8008/ ":                  "http://pg1:8008/cluster",
		"http://pg1:8008/cluster":             "http://pg1:8008/cluster",
		"https://pg1:8008/patroni":            "https://pg1:8008/cluster",
		"https://proxy/pg1":                   "https://proxy/pg1/cluster",
		"https://proxy/pg1/patroni/":          "https://proxy/pg1/cluster",
		"http://[::1]:8008":                   "http://[::1]:8008/cluster",
		"http://app:geheim@pg1:8008/?t=1#top": "http://pg1:8008/cluster?t=1",
	} {
		if a, ok := parseAPI(text); !ok || a.url.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, a.url, ok, want)
		}
	}
	for _, text := range []string{"", "pg1", "pg1:8008", "app:geheim@pg1:8008", "ftp://pg1", "http://", "http://:8008", "http://a:geheim@pg1:x", "%"} {
		p := Patroni("http://pg1:8008", text)
		err := p.Validate()
		if err == nil || !strings.Contains(err.Error(), "URL 2") || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: %v", text, err)
		}
		if _, again := p.Discover(t.Context()); again == nil || again.Error() != err.Error() {
			t.Errorf("Validate says %v, Discover %v", err, again)
		}
	}
	if _, err := Patroni().Discover(t.Context()); err == nil || !strings.Contains(err.Error(), "no URL") {
		t.Error(err)
	}
}

// recorder notes who asked it with which user and password.
type recorder struct {
	*httptest.Server
	mu    sync.Mutex
	users []string
}

func record(t *testing.T, next http.HandlerFunc) *recorder {
	r := &recorder{}
	r.Server = serve(t, func(w http.ResponseWriter, request *http.Request) {
		user, password, _ := request.BasicAuth()
		r.mu.Lock()
		r.users = append(r.users, user+":"+password)
		r.mu.Unlock()
		next(w, request)
	})
	return r
}

// seen returns who asked since the last call.
func (r *recorder) seen() (users []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	users, r.users = r.users, nil
	return users
}

func TestPatroniCredentials(t *testing.T) {
	elsewhere := record(t, answers(http.StatusOK, healthy))
	redirecting := record(t, http.RedirectHandler(elsewhere.URL+"/cluster", http.StatusTemporaryRedirect).ServeHTTP)
	good := record(t, answers(http.StatusOK, healthy))
	withUser := func(url string) string { return strings.Replace(url, "http://", "http://own:p%40ss@", 1) }

	p := Patroni(withUser(redirecting.URL), good.URL)
	p.User, p.Password = "common", "secret"
	list, err := p.Discover(t.Context())
	check(t, list, err, healthyList)
	if got := redirecting.seen(); !slices.Equal(got, []string{"own:p@ss"}) {
		t.Errorf("the URL with a user got %q", got)
	}
	if got := good.seen(); !slices.Equal(got, []string{"common:secret"}) {
		t.Errorf("the URL without a user got %q", got)
	}
	if got := elsewhere.seen(); got != nil {
		t.Errorf("the redirect was followed, with %q", got)
	}

	p = Patroni(good.URL)
	if _, err := p.Discover(t.Context()); err != nil || !slices.Equal(good.seen(), []string{":"}) {
		t.Error("a user was sent though none is set", err)
	}
}

// When all members that the caller named have been replaced, those that the last answer named are asked. They get no password.
func TestPatroniGoesOnWithMembersItFound(t *testing.T) {
	var body atomic.Pointer[string]
	second := record(t, func(w http.ResponseWriter, r *http.Request) { answers(http.StatusOK, *body.Load())(w, r) })
	first := record(t, func(w http.ResponseWriter, r *http.Request) { answers(http.StatusOK, *body.Load())(w, r) })
	text := fmt.Sprintf(`{"members": [{"name": "pg1", "role": "leader", "host": "pg1", "api_url": "%s/patroni"},
		{"name": "pg2", "role": "replica", "host": "pg2", "api_url": "%s/patroni"}]}`, first.URL, second.URL)
	body.Store(&text)

	p, fixed := Patroni(first.URL), Patroni(first.URL)
	p.User, p.Password = "app", "geheim"
	fixed.OnlyURLs = true
	for _, source := range []*PatroniAPI{p, fixed} {
		list, err := source.Discover(t.Context())
		check(t, list, err, "pg1=pg1:5432 pg2=pg2:5432")
	}
	if got := first.seen(); !slices.Equal(got, []string{"app:geheim", ":"}) {
		t.Errorf("the first member got %q", got)
	}
	first.Close()
	for range 2 {
		list, err := p.Discover(t.Context())
		check(t, list, err, "pg1=pg1:5432 pg2=pg2:5432")
	}
	if got := second.seen(); !slices.Equal(got, []string{":", ":"}) {
		t.Errorf("the member that was found got %q", got)
	}
	if list, err := fixed.Discover(t.Context()); err == nil || second.seen() != nil {
		t.Errorf("OnlyURLs: %v, %v", list, err)
	}
}

// script answers each URL in its own way, without a network.
type script struct {
	mu    sync.Mutex
	asked []string
	hosts map[string]func(*http.Request) (*http.Response, error)
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.Scheme+"://"+r.URL.Host)
	answer := s.hosts[r.URL.Host]
	s.mu.Unlock()
	if answer == nil {
		return nil, errors.New("connection refused")
	}
	return answer(r)
}

func (s *script) seen() (asked []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked, s.asked = s.asked, nil
	return asked
}

func say(body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

// hang answers nothing before the request is given up.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// stall answers, and then sends nothing more before the request is given up.
func stall(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(stalled{r.Context()}), Request: r}, nil
}

type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func patroniOn(s *script, hosts ...string) *PatroniAPI {
	var urls []string
	for _, h := range hosts {
		urls = append(urls, "http://"+h)
	}
	p := Patroni(urls...)
	p.Transport = s
	return p
}

func TestPatroniAsksTheLastGoodURLFirst(t *testing.T) {
	s := &script{hosts: map[string]func(*http.Request) (*http.Response, error){"b": say(healthy), "c": say(healthy)}}
	p := patroniOn(s, "a", "b", "c")
	for _, want := range []string{"http://a http://b", "http://b", "http://b"} {
		list, err := p.Discover(t.Context())
		check(t, list, err, healthyList)
		if got := strings.Join(s.seen(), " "); got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}
	delete(s.hosts, "b")
	if _, err := p.Discover(t.Context()); err != nil || strings.Join(s.seen(), " ") != "http://b http://a http://c" {
		t.Error(err)
	}
}

// A member that is cut off from the others knows no leader. Whoever knows one is believed before.
func TestPatroniPrefersAnAnswerWithALeader(t *testing.T) {
	leaderless := cluster(member("pg1", "replica", "running"))
	s := &script{hosts: map[string]func(*http.Request) (*http.Response, error){"a": say(leaderless), "b": say(healthy)}}
	list, err := patroniOn(s, "a", "b").Discover(t.Context())
	check(t, list, err, healthyList)

	s.hosts["b"] = say(cluster(member("pg2", "replica", "running")))
	list, err = patroniOn(s, "a", "b").Discover(t.Context())
	check(t, list, err, "pg1=pg1.test:5432")

	delete(s.hosts, "b")
	list, err = patroniOn(s, "b", "a").Discover(t.Context())
	check(t, list, err, "pg1=pg1.test:5432")
}

// What was found by https is not asked by http, where anybody on the way could change the answer.
func TestPatroniDoesNotLeaveTLS(t *testing.T) {
	text := `{"members": [{"name": "pg1", "role": "leader", "host": "pg1", "api_url": "http://pg1:8008/patroni"},
		{"name": "pg2", "host": "pg2", "api_url": "https://pg2:8008/patroni"}, {"name": "pg3", "host": "pg3", "api_url": "nonsense"}]}`
	for scheme, want := range map[string]string{
		"http":  "http://a http://pg1:8008 https://pg2:8008",
		"https": "https://a https://pg2:8008",
	} {
		s := &script{hosts: map[string]func(*http.Request) (*http.Response, error){"a": say(text)}}
		p := Patroni(scheme + "://a")
		p.Transport = s
		if _, err := p.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.seen()
		delete(s.hosts, "a")
		if list, err := p.Discover(t.Context()); err == nil {
			t.Error(list)
		}
		if got := strings.Join(s.seen(), " "); got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}
}

// A URL that hangs costs its own time and no more.
func TestPatroniTimeout(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		s := &script{hosts: map[string]func(*http.Request) (*http.Response, error){"a": hang, "b": stall, "c": say(healthy)}}
		began := time.Now()
		list, err := patroniOn(s, "a", "b", "c").Discover(t.Context())
		check(t, list, err, healthyList)
		if took := time.Since(began); took != 2*DefaultTimeout {
			t.Errorf("two URLs that hang took %v", took)
		}

		began = time.Now()
		p := patroniOn(s, "a", "b")
		p.Timeout = 100 * time.Millisecond
		list, err = p.Discover(t.Context())
		check(t, list, err, "", "http://a: no answer within 100ms", "http://b: no answer within 100ms")
		if took := time.Since(began); took != 200*time.Millisecond {
			t.Errorf("two URLs that hang took %v", took)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it looks like the caller's own time limit: %v", err)
		}
	})
}

func TestPatroniHonoursItsContext(t *testing.T) {
	testenv.Bubble(t, func(t *testing.T) {
		s := &script{hosts: map[string]func(*http.Request) (*http.Response, error){"a": hang, "b": stall}}
		for _, host := range []string{"a", "b"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			began := time.Now()
			list, err := patroniOn(s, host, "c", "d").Discover(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("after %v: %v, %v", time.Since(began), list, err)
			}
			if got := s.seen(); len(got) != 1 {
				t.Errorf("asked %v although the context had ended", got)
			}
			cancel()
		}
	})
}

// The same over a socket: the request ends, and with it the connection.
func TestPatroniHangsUpWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if list, err := Patroni(server.URL).Discover(ctx); !errors.Is(err, context.Canceled) {
		t.Error(list, err)
	}
}

func TestPatroniTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(answers(http.StatusOK, healthy))
	server.Config.ErrorLog = quiet(t)
	server.StartTLS()
	t.Cleanup(server.Close)
	p := Patroni(server.URL)
	list, err := p.Discover(t.Context())
	check(t, list, err, "", "certificate")

	p = Patroni(server.URL)
	authorities := x509.NewCertPool()
	authorities.AddCert(server.Certificate())
	p.TLS = &tls.Config{RootCAs: authorities}
	list, err = p.Discover(t.Context())
	check(t, list, err, healthyList)

	plain, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	list, err = Patroni("http://" + plain.Host).Discover(t.Context())
	check(t, list, err, "", "it answers 400 Bad Request")
}

func TestPatroniForManyAtOnce(t *testing.T) {
	server := serve(t, answers(http.StatusOK, healthy))
	p := Patroni("http://127.0.0.1:1", server.URL)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 10 {
				list, err := p.Discover(t.Context())
				check(t, list, err, healthyList)
			}
		})
	}
	running.Wait()
}
