package hasqlhttp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pghasql/hasql"
)

const (
	minToken     = 16 // characters
	maxOrder     = 1 << 14
	pauseDefault = time.Minute      // how long a pause lasts unless the order says it
	waitDefault  = 30 * time.Second // how long drain and pause wait for connections in use unless the order says it
	waitLimit    = time.Hour        // the longest such wait that an order may ask for
)

// Admin takes an operator's orders: those of [hasql.PoolManager.Ban], Unban, Drain, PauseFor and Resume. An order is a POST
// of a form, in the body:
//
//	curl -H "Authorization: Bearer $TOKEN" -d order=drain -d node=pg2:5432 -d reason=disk https://shop-1.internal/hasql/admin
//
//	ban     node, and if wanted duration (1h30m; the default is no end), reason, force (true: also the last node that is up in its role)
//	drain   the same, and timeout: how long to wait for connections in use (30s by default, at most 1h)
//	unban   node
//	pause   duration (1m by default) after which the pause ends by itself, and timeout as for drain
//	resume  nothing
//
// The answer to an order that was carried out is 200 with the JSON of [Status]. Any other answer has the JSON {"error": "…"}:
// 400 for an order that makes no sense, 401 without the token, 403 for a request that a browser sends for another site, 404
// for an unknown node, 405 for another method than POST, 409 for what hasql refuses, 503 after Close, and 504 if connections
// were still in use when the time was up: then there is no pause, but a ban of drain stands. If the client goes away while
// an order waits, the wait ends in the same way.
//
// Every order needs the token as a bearer token (RFC 6750). A token of less than 16 characters is an error. Nothing is
// logged of the token, but whoever can read the network can read it too: serve the handler over TLS or on a loopback
// address. An order is for one process: where many use the cluster each gets its own.
func Admin(pm *hasql.PoolManager, token string) (http.Handler, error) {
	if len(token) < minToken {
		return nil, fmt.Errorf("hasqlhttp: the token of Admin must have at least %d characters", minToken)
	}
	return safe(&admin{pm: pm, token: sha256.Sum256([]byte(token)), foreign: http.NewCrossOriginProtection()}), nil
}

type admin struct {
	pm      *hasql.PoolManager
	token   [sha256.Size]byte // its hash: all hashes are equally long, so a comparison does not tell how long the token is
	foreign *http.CrossOriginProtection
}

// refusal is an error with the status of its answer.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := a.check(w, r)
	if err == nil {
		err = a.obey(w, r)
	}
	w.Header().Set("Content-Type", "application/json")
	var content any
	if err != nil {
		w.WriteHeader(statusOf(err))
		content = map[string]string{"error": strings.TrimPrefix(err.Error(), "hasql: ")}
	} else {
		content = NewStatus(a.pm, nil)
	}
	_ = json.NewEncoder(w).Encode(content) // an error means that the client is gone
}

func statusOf(err error) int {
	refused, ok := errors.AsType[*refusal](err)
	switch {
	case ok:
		return refused.status
	case errors.Is(err, hasql.ErrClosed):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusConflict
}

// check refuses whoever may give no orders.
func (a *admin) check(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(http.StatusMethodNotAllowed, "orders are given by POST")
	}
	if a.foreign.Check(r) != nil {
		return refuse(http.StatusForbidden, "the request comes from another site")
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if subtle.ConstantTimeCompare(given[:], a.token[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return refuse(http.StatusUnauthorized, "the header Authorization must hold the token, as in: Bearer …")
	}
	return nil
}

// obey carries an order out.
func (a *admin) obey(w http.ResponseWriter, r *http.Request) error {
	order, err := readOrder(w, r)
	if err != nil {
		return err
	}
	s := a.pm.Snapshot()
	if s.Closed() {
		return hasql.ErrClosed
	}
	if _, known := s.Node(order.node); order.node != "" && !known {
		return refuse(http.StatusNotFound, "there is no node %q", order.node)
	}
	options := hasql.BanOptions{Reason: order.reason, Duration: order.duration, Force: order.force}
	ctx, cancel := context.WithTimeout(r.Context(), order.timeout)
	defer cancel()
	if order.waits() {
		// A server's limit is made for short answers, and this one would be lost. An error means that there is no such limit.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	}
	switch order.what {
	case "ban":
		return a.pm.Ban(order.node, options)
	case "drain":
		return a.pm.Drain(ctx, order.node, options)
	case "unban":
		return a.pm.Unban(order.node)
	case "pause":
		return a.pm.PauseFor(ctx, order.duration)
	default:
		a.pm.Resume()
		return nil
	}
}

// order is what an operator asks for.
type order struct {
	what, node, reason string
	duration, timeout  time.Duration
	force              bool
}

// fields are what an order may say, by what it asks for.
var fields = map[string][]string{
	"ban":    {"node", "reason", "duration", "force"},
	"drain":  {"node", "reason", "duration", "force", "timeout"},
	"unban":  {"node"},
	"pause":  {"duration", "timeout"},
	"resume": {},
}

func (o *order) takes(field string) bool { return slices.Contains(fields[o.what], field) }

// waits reports whether the order waits for connections in use.
func (o *order) waits() bool { return o.takes("timeout") }

func readOrder(w http.ResponseWriter, r *http.Request) (o order, err error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		return o, refuse(http.StatusBadRequest, "an order is a form in the body (application/x-www-form-urlencoded), with nothing in the URL")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxOrder))
	if err != nil {
		return o, refuse(http.StatusBadRequest, "the order could not be read: %v", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return o, refuse(http.StatusBadRequest, "the order is no form: %v", err)
	}
	o = order{what: form.Get("order"), timeout: waitDefault}
	if _, known := fields[o.what]; !known {
		return o, refuse(http.StatusBadRequest, "order must be ban, drain, unban, pause or resume, not %q", o.what)
	}
	if o.what == "pause" {
		o.duration = pauseDefault
	}
	for name, values := range form {
		switch {
		case len(values) > 1:
			err = errors.New("there must be one")
		case name == "order":
		case !o.takes(name):
			err = fmt.Errorf("%s does not take it", o.what)
		default:
			err = o.set(name, values[0])
		}
		if err != nil {
			return o, refuse(http.StatusBadRequest, "%q: %v", name, err)
		}
	}
	if o.takes("node") && o.node == "" {
		return o, refuse(http.StatusBadRequest, "%s needs a node", o.what)
	}
	return o, nil
}

func (o *order) set(field, value string) (err error) {
	switch field {
	case "node":
		o.node = value
	case "reason":
		o.reason = value
	case "force":
		o.force, err = strconv.ParseBool(value)
	case "duration":
		o.duration, err = positive(value)
	case "timeout":
		if o.timeout, err = positive(value); o.timeout > waitLimit {
			err = fmt.Errorf("it must be at most %v", waitLimit)
		}
	}
	return err
}

func positive(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err == nil && d <= 0 {
		err = errors.New("it must be positive")
	}
	return d, err
}
