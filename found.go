package hasql

import (
	"cmp"
	"crypto/tls"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pghasql/hasql/internal/dsn"
)

// listedNode is one node of a list: its address, its label, and how to configure it if it is new.
type listedNode struct {
	server address
	label  label
	config func() (NodeConfig, error) // of a new node
}

// listedNodeOf describes a node that was found.
func (c *Config) listedNodeOf(e Endpoint) listedNode {
	like, known := c.templateFor(e)
	l := label{e.Name, e.Zone, e.Tags}
	if known {
		l.zone = cmp.Or(e.Zone, like.Zone)
	}
	return listedNode{newAddress(e.Host, e.Port, e.Addr), l, func() (NodeConfig, error) {
		pool, err := c.poolFromTemplate(like, e)
		return NodeConfig{Name: l.name, Zone: l.zone, Tags: l.tags, Pool: pool, addr: e.Addr}, err
	}}
}

// templateFor returns the configured node that is the template for a discovered one. known tells that both have the same host and
// port.
func (c *Config) templateFor(e Endpoint) (n *NodeConfig, known bool) {
	for i := range c.Nodes {
		conn := c.Nodes[i].Pool.ConnConfig
		if strings.EqualFold(conn.Host, e.Host) && conn.Port == e.Port {
			return &c.Nodes[i], true
		}
	}
	return &c.Nodes[0], false
}

// poolFromTemplate makes the configuration of a discovered node's pool. It copies that of the template, as the user has edited it.
// Host, port, address, TLS name and password are what the DSN means for the new host.
func (c *Config) poolFromTemplate(like *NodeConfig, e Endpoint) (*pgxpool.Config, error) {
	network, _ := c.source.Settings.Network(c.DownTimeout) // ParseConfig has reported its problems
	host := dsn.Endpoint{Host: e.Host, Port: e.Port}
	if e.Addr.IsValid() {
		host.Addr = e.Addr.String()
	}
	pool := like.Pool.Copy()
	conn := pool.ConnConfig
	was := dsn.Endpoint{Host: conn.Host, Port: conn.Port}
	plain, err := c.source.Pool(was, network, isOurs)
	if err != nil {
		return nil, err
	}
	own, err := c.source.Pool(host, network, isOurs)
	if err != nil {
		return nil, err
	}
	socket := dsn.IsSocket(was.Host)
	if socket {
		conn.TLSConfig, conn.Fallbacks = own.ConnConfig.TLSConfig, own.ConnConfig.Fallbacks
		conn.DialFunc = own.ConnConfig.DialFunc
	}
	if socket || like.addr.IsValid() || e.Addr.IsValid() {
		conn.LookupFunc = own.ConnConfig.LookupFunc
	}
	if conn.Password == plain.ConnConfig.Password { // else the user has set it
		conn.Password = own.ConnConfig.Password
	}
	conn.Host, conn.Port = host.Host, host.Port
	sni := serverName(own.ConnConfig)
	rename(conn.TLSConfig, was.Host, host.Host, sni)
	for _, f := range conn.Fallbacks {
		f.Host, f.Port = host.Host, host.Port
		rename(f.TLSConfig, was.Host, host.Host, sni)
	}
	return pool, nil
}

// serverName returns the name that a connection asks for by TLS, "" if it asks for none.
func serverName(conn *pgx.ConnConfig) string {
	if conn.TLSConfig != nil {
		return conn.TLSConfig.ServerName
	}
	for _, f := range conn.Fallbacks {
		if f.TLSConfig != nil {
			return f.TLSConfig.ServerName
		}
	}
	return ""
}

// rename sets the name that TLS verifies. The old host's name becomes the new host's. If there was no name, it becomes sni.
// A name that the user has set stays.
func rename(config *tls.Config, from, to, sni string) {
	switch {
	case config == nil:
	case config.ServerName == from:
		config.ServerName = to
	case config.ServerName == "":
		config.ServerName = sni
	}
}
