package discovery

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// patroniAnswer is what a good answer says.
type patroniAnswer struct {
	from      api
	endpoints []Endpoint
	leader    bool     // a member has the leader lock
	members   []string // the URLs of the members' APIs
}

// patroniCluster is the part of GET /cluster that matters here. See cluster_as_json in Patroni's utils.py.
type patroniCluster struct {
	Scope   string          `json:"scope"`
	Members []patroniMember `json:"members"`
}

type patroniMember struct {
	Name   string `json:"name"`
	Role   string `json:"role"`
	State  string `json:"state"`
	APIURL string `json:"api_url"`
	Host   string `json:"host"`
	Port   uint16 `json:"port"`
	Tags   tags   `json:"tags"`
}

// leaders are the roles of the member that has the leader lock, in all versions of Patroni.
var leaders = []string{"leader", "standby_leader", "promoted", "master", "primary"}

// unborn are the states of members that have no data directory to serve. See PostgresqlState in Patroni's postgresql/misc.py.
var unborn = []string{
	"creating replica", "initializing new cluster", "initdb failed",
	"running custom bootstrap script", "custom bootstrap failed",
}

// read judges the answer of one URL.
func (p *PatroniAPI) read(from api, body []byte) (*patroniAnswer, error) {
	var cluster patroniCluster
	if err := json.Unmarshal(body, &cluster); err != nil {
		return nil, fmt.Errorf("it answers something else than the JSON of GET /cluster: %w", err)
	}
	if p.Scope != "" && cluster.Scope != "" && cluster.Scope != p.Scope {
		return nil, fmt.Errorf("it answers for the cluster %q, not for %q", cluster.Scope, p.Scope)
	}
	slices.SortStableFunc(cluster.Members, func(a, b patroniMember) int { return strings.Compare(a.Name, b.Name) })
	a := &patroniAnswer{from: from}
	var found []Endpoint
	for _, m := range cluster.Members {
		a.leader = a.leader || slices.Contains(leaders, m.Role)
		if m.Host != "" && !slices.Contains(unborn, m.State) {
			found = append(found, m.endpoint(cmp.Or(p.ZoneTag, "zone")))
			a.learn(m.APIURL)
		}
	}
	var err error
	if a.endpoints, err = Normalize(found); err != nil {
		return nil, fmt.Errorf("%w (it lists %d members)", err, len(cluster.Members))
	}
	return a, nil
}

// learn keeps the URL of a member for later, unless whoever listens on the way could make one of it that is less safe than
// where the answer came from.
func (a *patroniAnswer) learn(text string) {
	member, ok := parseAPI(text)
	if ok && (member.url.Scheme == "https" || a.from.url.Scheme == "http") && len(a.members) < maxLearned {
		a.members = append(a.members, member.url.String())
	}
}

func (m patroniMember) endpoint(zoneTag string) Endpoint {
	if m.Role == "sync_standby" || m.Role == "quorum_standby" {
		if m.Tags == nil {
			m.Tags = tags{}
		}
		m.Tags[m.Role] = "true"
	}
	return Endpoint{Name: m.Name, Host: m.Host, Port: m.Port, Zone: m.Tags[zoneTag], Tags: m.Tags}
}

// tags are the tags of a node in JSON, where a value may be of any type. Text stays as it is; true is "true", 1.50 is "1.50", and
// null is no tag.
type tags map[string]string

// UnmarshalJSON reads an object.
func (t *tags) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*t = make(tags, len(raw))
	for name, value := range raw {
		text := string(value)
		if text == "null" {
			continue
		}
		if text[0] == '"' {
			if err := json.Unmarshal(value, &text); err != nil {
				return err
			}
		}
		(*t)[name] = text
	}
	return nil
}
