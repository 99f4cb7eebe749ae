package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// DefaultMaxAge is after how long an Aurora reader that does not report is left out.
const DefaultMaxAge = 5 * time.Minute

// AuroraCluster finds the instances of an Aurora cluster. [Aurora] makes one.
type AuroraCluster struct {
	// Querier asks one of the instances, no matter which.
	Querier Querier

	// Endpoint is any endpoint of the cluster, as AWS shows it, or a pattern that has a ? where an instance's name belongs:
	// shop.cluster-cabc123.eu-central-1.rds.amazonaws.com or ?.cabc123.eu-central-1.rds.amazonaws.com.
	Endpoint string

	// Port is the port of every instance. The default, 0, is [DefaultPort].
	Port uint16

	// Timeout is how long the question may take. The default, 0, is [DefaultTimeout].
	Timeout time.Duration

	// MaxAge is after how long a reader that does not report is left out: Aurora lists deleted ones for a while. The writer is
	// never left out. The default, 0, is [DefaultMaxAge].
	MaxAge time.Duration
}

// Aurora returns a discoverer for which the nodes are the instances of an Aurora PostgreSQL cluster, as
// aurora_replica_status() tells them, in the order of their names. See
// https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_replica_status.html.
//
// It tells names of instances only: endpoint is any endpoint of the cluster, from which the instances' own endpoints follow. It
// does not tell availability zones. It is tested on fakes, never on AWS.
func Aurora(q Querier, endpoint string) *AuroraCluster {
	return &AuroraCluster{Querier: q, Endpoint: endpoint}
}

const auroraSQL = `select server_id::text, coalesce(session_id::text = 'MASTER_SESSION_ID', false),
	coalesce(extract(epoch from now() - last_update_timestamp), 0)::float8 from aurora_replica_status()`

type auroraInstance struct {
	ID     string
	Writer bool
	Age    float64 // in seconds, since the instance has reported
}

// Validate says what is wrong with the fields.
func (a *AuroraCluster) Validate() error {
	_, err := instancePattern(a.Endpoint)
	if a.Querier == nil {
		err = errors.New("no Querier")
	}
	if err != nil {
		return fmt.Errorf("hasql: discovery by Aurora: %w", err)
	}
	return nil
}

// Discover asks for the instances.
func (a *AuroraCluster) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	pattern, _ := instancePattern(a.Endpoint)
	instances, err := query[auroraInstance](ctx, a.Querier, a.Timeout, "Aurora", auroraSQL)
	var endpoints []Endpoint
	maxAge := cmp.Or(a.MaxAge, DefaultMaxAge).Seconds()
	for _, i := range instances {
		if i.Writer || i.Age <= maxAge {
			endpoints = append(endpoints, pattern.endpoint(i.ID, a.Port))
		}
	}
	sortByHost(endpoints)
	return result("Aurora", endpoints, err)
}

// AuroraGlobalDatabase finds the instances of an Aurora global database. [AuroraGlobal] makes one.
type AuroraGlobalDatabase struct {
	// Querier asks one of the instances, no matter which.
	Querier Querier

	// Endpoints has for each region any endpoint of the region's cluster, or a pattern, as in [AuroraCluster].
	Endpoints map[string]string

	// Port is the port of every instance. The default, 0, is [DefaultPort].
	Port uint16

	// Timeout is how long the question may take. The default, 0, is [DefaultTimeout].
	Timeout time.Duration
}

// AuroraGlobal returns a discoverer for which the nodes are the instances of an Aurora global database, as
// aurora_global_db_instance_status() tells them, in the order of their endpoints. The Zone of each is its region. See
// https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_global_db_instance_status.html.
//
// Instances in regions that endpoints does not have are left out. It is tested on fakes, never on AWS.
func AuroraGlobal(q Querier, endpoints map[string]string) *AuroraGlobalDatabase {
	return &AuroraGlobalDatabase{Querier: q, Endpoints: maps.Clone(endpoints)}
}

const auroraGlobalSQL = `select server_id::text, aws_region::text from aurora_global_db_instance_status()`

type auroraGlobalInstance struct{ ID, Region string }

// Validate says what is wrong with the fields.
func (a *AuroraGlobalDatabase) Validate() error {
	_, err := a.patterns()
	return err
}

func (a *AuroraGlobalDatabase) patterns() (map[string]pattern, error) {
	if a.Querier == nil || len(a.Endpoints) == 0 {
		return nil, errors.New("hasql: discovery by Aurora global: no Querier or no Endpoints")
	}
	patterns := make(map[string]pattern)
	for _, region := range slices.Sorted(maps.Keys(a.Endpoints)) {
		p, err := instancePattern(a.Endpoints[region])
		if err != nil {
			return nil, fmt.Errorf("hasql: discovery by Aurora global: region %q: %w", region, err)
		}
		patterns[region] = p
	}
	return patterns, nil
}

// Discover asks for the instances.
func (a *AuroraGlobalDatabase) Discover(ctx context.Context) ([]Endpoint, error) {
	patterns, err := a.patterns()
	if err != nil {
		return nil, err
	}
	instances, err := query[auroraGlobalInstance](ctx, a.Querier, a.Timeout, "Aurora", auroraGlobalSQL)
	var endpoints []Endpoint
	for _, i := range instances {
		if p, known := patterns[i.Region]; known {
			e := p.endpoint(i.ID, a.Port)
			e.Name = fmt.Sprintf("%s (%s)", i.ID, i.Region) // two regions may have instances of one name
			e.Zone = i.Region
			endpoints = append(endpoints, e)
		}
	}
	if err == nil && len(endpoints) == 0 {
		err = fmt.Errorf("%w in the regions of Endpoints, of %d altogether", ErrNoNodes, len(instances))
	}
	sortByHost(endpoints)
	return result("Aurora global", endpoints, err)
}

// RDSCluster finds the instances of an RDS Multi-AZ DB cluster. [RDSMultiAZ] makes one.
type RDSCluster struct {
	// Querier asks one of the instances, no matter which.
	Querier Querier

	// Timeout is how long the question may take. The default, 0, is [DefaultTimeout].
	Timeout time.Duration
}

// RDSMultiAZ returns a discoverer for which the nodes are the instances of an RDS Multi-AZ DB cluster (one with two readable
// standbys, not a Multi-AZ instance), as rds_tools.show_topology tells them, in the order of their endpoints. The extension rds_tools
// must have been created. See
// https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/PostgreSQL_rds_tools-functions-reference.html.
//
// It does not tell availability zones. It is tested on fakes, never on AWS.
func RDSMultiAZ(q Querier) *RDSCluster { return &RDSCluster{Querier: q} }

// The argument is the name of the software that asks, for AWS's statistics.
const rdsSQL = `select endpoint::text, port::int4 from rds_tools.show_topology('hasql')`

type rdsInstance struct {
	Endpoint string
	Port     int32
}

// Validate says what is wrong with the fields.
func (r *RDSCluster) Validate() error {
	if r.Querier == nil {
		return errors.New("hasql: discovery by RDS: no Querier")
	}
	return nil
}

// Discover asks for the instances.
func (r *RDSCluster) Discover(ctx context.Context) ([]Endpoint, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	instances, err := query[rdsInstance](ctx, r.Querier, r.Timeout, "RDS with the extension rds_tools", rdsSQL)
	var endpoints []Endpoint
	for _, i := range instances {
		if i.Port < 1 || i.Port > 65535 {
			err = cmp.Or(err, fmt.Errorf("%s has the port %d", i.Endpoint, i.Port))
		}
		name, _, _ := strings.Cut(i.Endpoint, ".")
		endpoints = append(endpoints, Endpoint{Name: name, Host: i.Endpoint, Port: uint16(i.Port)})
	}
	sortByHost(endpoints)
	return result("RDS", endpoints, err)
}

// pattern is the endpoint of an instance with a ? in the place of its name.
type pattern string

// instancePattern makes a pattern of any endpoint of an Aurora cluster: name.cluster-x, name.cluster-ro-x, name.cluster-custom-x
// and instance.x lead to ?.x.
func instancePattern(endpoint string) (pattern, error) {
	if strings.Count(endpoint, "?") == 1 {
		return pattern(endpoint), checkHost(strings.Replace(endpoint, "?", "x", 1))
	}
	if err := checkHost(endpoint); err != nil {
		return "", err
	}
	_, domain, _ := strings.Cut(endpoint, ".")
	other := func(kind string) bool { return strings.HasPrefix(domain, kind) }
	if !strings.Contains(domain, ".rds.") || slices.ContainsFunc([]string{"global-", "proxy-", "shardgrp-"}, other) {
		return "", errors.New("an endpoint from which those of instances do not follow: write ?.x.region.rds.amazonaws.com")
	}
	for _, kind := range []string{"cluster-ro-", "cluster-custom-", "cluster-"} {
		if rest, ok := strings.CutPrefix(domain, kind); ok {
			domain = rest
			break
		}
	}
	return pattern("?." + domain), nil
}

func (p pattern) endpoint(id string, port uint16) Endpoint {
	return Endpoint{Name: id, Host: strings.Replace(string(p), "?", id, 1), Port: port}
}

// sortByHost makes the order of the rows not matter.
func sortByHost(endpoints []Endpoint) {
	slices.SortStableFunc(endpoints, func(a, b Endpoint) int {
		return cmp.Or(strings.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
}
