package patroni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// status is the answer of a member's REST API, see "Patroni REST API" in Patroni's documentation. It is zero if the member does
// not answer.
type status struct {
	State       string `json:"state"`
	Role        string `json:"role"`
	Pause       bool   `json:"pause"`
	Synchronous bool   `json:"sync_standby"`
	Unlocked    bool   `json:"cluster_unlocked"` // the cluster has no leader
	Started     string `json:"postmaster_start_time"`
	LastSeen    int64  `json:"dcs_last_seen"` // when etcd last answered the member, in seconds
	Replication []struct {
		State string `json:"state"`
	} `json:"replication"`
}

// leads reports whether the member is the leader. Patroni 4 says primary instead of master.
func (s status) leads() bool {
	return s.State == "running" && (s.Role == "master" || s.Role == "primary")
}

func (s status) streaming() (standbys int) {
	for _, r := range s.Replication {
		if r.State == "streaming" {
			standbys++
		}
	}
	return standbys
}

func (m *Member) status(ctx context.Context) (s status) {
	if !m.running() {
		return status{}
	}
	_, body, err := request(ctx, http.MethodGet, m.url("/patroni"), nil)
	if err != nil || json.Unmarshal(body, &s) != nil {
		return status{}
	}
	return s
}

func (m *Member) post(ctx context.Context, path string, body any) error {
	return m.tell(ctx, http.MethodPost, path, body)
}

func (m *Member) patch(ctx context.Context, path string, body any) error {
	return m.tell(ctx, http.MethodPatch, path, body)
}

func (m *Member) tell(ctx context.Context, method, path string, content any) error {
	sent, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("patroni: %s: %w", m.name, err)
	}
	code, answer, err := request(ctx, method, m.url(path), sent)
	if err == nil && code != http.StatusOK && code != http.StatusAccepted {
		err = fmt.Errorf("%d: %s", code, answer)
	}
	if err != nil {
		return fmt.Errorf("patroni: %s: %s %s: %w", m.name, method, path, err)
	}
	m.cluster.logf("%s: %s %s %s", m.name, method, path, sent)
	return nil
}

func (m *Member) url(path string) string { return "http://" + m.api + path }

// client keeps no idle connections. Their goroutines would disturb tests that count goroutines.
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func request(ctx context.Context, method, url string, body []byte) (code int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}
