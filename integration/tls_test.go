package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pghasql/hasql"
	"github.com/pghasql/hasql/internal/pgcluster"
)

// authority is a certificate authority of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // of its certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of " + t.Name()},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert: cert, key: key, file: writeTemp(t, pemOf("CERTIFICATE", der))}
}

// issue makes a certificate and its key, for a server of this name or a client that logs in as this role.
func (a *authority) issue(t testing.TB, name string, edits ...func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, edit := range edits {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", keyDER)
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-24 * time.Hour) }

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeTemp writes a file of the test's and returns its path.
func writeTemp(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// secured is a cluster to which the role app comes over TLS alone. Its nodes are n1.test, n2.test, …
type secured struct {
	*pgcluster.Cluster
	ca *authority
}

const appPassword = "s3cret of app"

// startSecured starts one whose pg_hba.conf asks the role app for this method.
func startSecured(t testing.TB, replicas int, method string, prepare ...func(*secured, *pgcluster.Node) error) *secured {
	t.Helper()
	s := &secured{ca: newAuthority(t)}
	s.Cluster = startCluster(t, pgcluster.Options{
		Replicas: replicas,
		HBA:      []string{"hostssl all app samenet " + method, "host all app samenet reject"},
		Parameters: map[string]string{
			"ssl": "on", "ssl_cert_file": "../server.crt", "ssl_key_file": "../server.key", "ssl_ca_file": "../ca.crt",
		},
		Prepare: func(n *pgcluster.Node) error {
			ca, err := os.ReadFile(s.ca.file)
			cert, key := s.ca.issue(t, s.host(n))
			err = errors.Join(err, n.WriteFile("ca.crt", string(ca)), s.show(n, cert, key))
			for _, more := range prepare {
				err = errors.Join(err, more(s, n))
			}
			return err
		},
	})
	master := s.Nodes()[0]
	execute(t, master, "create role app login password '"+appPassword+"'; grant pg_monitor to app; create table t (n int); grant all on t to app")
	for _, n := range s.Nodes()[1:] {
		must(t, n.WaitStreaming(testContext(t), master)) // they know the role too
	}
	return s
}

// show gives a node a certificate, which it shows once it has reloaded.
func (s *secured) show(n *pgcluster.Node, cert, key string) error {
	return errors.Join(n.WriteFile("server.crt", cert), n.WriteFile("server.key", key))
}

func (s *secured) host(n *pgcluster.Node) string { return n.Name() + ".test" }

// DSN is for the role app, with every check that there is.
func (s *secured) DSN() string {
	var hosts, addrs, ports []string
	for _, n := range s.Nodes() {
		hosts, addrs, ports = append(hosts, s.host(n)), append(addrs, "127.0.0.1"), append(ports, fmt.Sprint(n.Port()))
	}
	return fmt.Sprintf("host=%s hostaddr=%s port=%s user=app password='%s' dbname=postgres sslmode=verify-full sslrootcert=%s",
		strings.Join(hosts, ","), strings.Join(addrs, ","), strings.Join(ports, ","), appPassword, s.ca.file)
}

// at returns node i under the name that the manager has for it.
func (s *secured) at(i int) securedNode {
	n := s.Nodes()[i]
	return securedNode{n, fmt.Sprintf("%s:%d", s.host(n), n.Port())}
}

type securedNode struct {
	*pgcluster.Node
	name string
}

func (n securedNode) Addr() string { return n.name }

// reload makes a node read its configuration and certificates again, and returns once it has.
func reload(t testing.TB, n server) {
	t.Helper()
	conn := connect(t, n)
	before := scan[time.Time](t, conn, "select pg_conf_load_time()")
	if !scan[bool](t, conn, "select pg_reload_conf()") {
		t.Fatalf("%s did not reload", n.Addr())
	}
	// The postmaster loads the certificates before it tells its children; a new session is a child of then.
	for !scan[time.Time](t, connect(t, n), "select pg_conf_load_time()").After(before) {
	}
}

// endSessions ends those of the role app but for one, and returns once they are gone.
func endSessions(t testing.TB, n server, except uint32) {
	t.Helper()
	conn := connect(t, n)
	ended := scan[[]int32](t, conn, `select coalesce(array_agg(pid) filter (where pg_terminate_backend(pid)), '{}')
		from pg_stat_activity where usename = 'app' and pid <> $1`, except)
	for scan[bool](t, conn, "select exists (select from pg_stat_activity where pid = any ($1))", ended) {
	}
}

// writeAgain writes until that succeeds: connections that were ended by hand fail one statement each.
func writeAgain(t testing.TB, m *manager) {
	t.Helper()
	for failures := 0; ; failures++ {
		_, err := m.Master().Exec(testContext(t), "insert into t values (0)")
		if err == nil {
			return
		}
		if failures == 4 {
			t.Fatal(err)
		}
	}
}

func TestVerifiedTLSWithChannelBindingThroughFailovers(t *testing.T) {
	ctx := testContext(t)
	s := startSecured(t, 2, "scram-sha-256")
	m := open(t, s.DSN()+" channel_binding=require", maxConns(4))
	must(t, m.Ready(ctx, 1, 2))
	write := func() {
		t.Helper()
		_, err := m.Master().Exec(ctx, "insert into t values (1)")
		must(t, err)
	}
	write()
	for i := range s.Nodes() {
		sessions := connect(t, s.at(i))
		must(t, m.Replica().Ping(ctx))
		plain := scan[int](t, sessions, "select count(*) from pg_stat_activity join pg_stat_ssl using (pid) where usename = 'app' and not ssl")
		over := scan[int](t, sessions, "select count(*) from pg_stat_activity join pg_stat_ssl using (pid) where usename = 'app' and ssl")
		if plain != 0 || over == 0 {
			t.Errorf("%s: %d sessions without TLS, %d with", s.at(i).name, plain, over)
		}
	}

	must(t, s.Nodes()[0].Kill())
	must(t, s.Nodes()[1].Promote(ctx))
	write()
	m.awaitMaster(s.at(1))
	must(t, s.Nodes()[2].Follow(ctx, s.Nodes()[1]))
	must(t, s.Nodes()[2].WaitStreaming(ctx, s.Nodes()[1]))

	// A statement on a master that hangs is cut, with its reason, through TLS too.
	failed := make(chan error, 1)
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	defer conn.Release()
	go func() {
		_, err := conn.Exec(ctx, "select pg_sleep(1000)")
		failed <- err
	}()
	watcher := connect(t, s.at(1))
	for !scan[bool](t, watcher, "select exists (select from pg_stat_activity where query = 'select pg_sleep(1000)' and state = 'active')") {
	}
	freeze(t, s.Nodes()[1])
	must(t, s.Nodes()[2].Promote(ctx))
	m.awaitMaster(s.at(2))
	write()
	err = <-failed
	if down, ok := errors.AsType[*hasql.NodeDownError](err); !ok || down.Node != s.at(1).name {
		t.Errorf("the statement on the master that hangs: %v", err)
	}
	m.silentAbout(appPassword, err)
}

func TestRefusedCertificatesAreToldByNodeAndCause(t *testing.T) {
	stranger := newAuthority(t)
	s := startSecured(t, 4, "scram-sha-256", func(s *secured, n *pgcluster.Node) error {
		switch n.Name() {
		case "n2":
			cert, key := s.ca.issue(t, "other.test")
			return s.show(n, cert, key)
		case "n3":
			cert, key := stranger.issue(t, s.host(n))
			return s.show(n, cert, key)
		case "n4":
			cert, key := s.ca.issue(t, s.host(n), expired)
			return s.show(n, cert, key)
		}
		return nil
	})
	execute(t, s.at(4), "alter system set ssl = off")
	reload(t, s.at(4))
	m := open(t, s.DSN(), budget(300*time.Millisecond))
	must(t, m.Ready(testContext(t), 1, 0))
	must(t, m.Master().Ping(testContext(t)))
	must(t, m.WaitNextCheck(testContext(t)))
	conn, err := m.AcquireReplica(testContext(t))
	if err == nil {
		conn.Release()
	}
	outOfBudget(t, err)
	for i, cause := range []string{
		1: "certificate is valid for other.test, not n2.test",
		2: "certificate signed by unknown authority",
		3: "certificate has expired",
		4: "server refused TLS connection",
	} {
		if i > 0 {
			toldOnce(t, err, s.host(s.Nodes()[i])+":", s.at(i).name+" suspect", cause)
		}
	}
	var causes []error // of the nodes: the error itself is not a node's
	if noNode, ok := errors.AsType[*hasql.NoNodeError](err); ok {
		for _, n := range noNode.Nodes {
			causes = append(causes, n.Cause)
		}
	}
	told := errors.Join(causes...)
	if !isA[x509.HostnameError](told) || !isA[x509.UnknownAuthorityError](told) || !isA[x509.CertificateInvalidError](told) {
		t.Errorf("a cause is not among those of the nodes of %v", err)
	}
	m.silentAbout(appPassword, err)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// toldOnce checks that an error has each of these texts once.
func toldOnce(t testing.TB, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if n := strings.Count(err.Error(), text); n != 1 {
			t.Errorf("%q stands %d times in %v", text, n, err)
		}
	}
}

// certificates notes which one each connection of a manager was shown.
type certificates struct {
	mu    sync.Mutex
	shown map[string]bool // serial numbers
}

func (c *certificates) AfterConnect(_ context.Context, conn *pgx.Conn) error {
	secure, ok := conn.PgConn().Conn().(*tls.Conn)
	if !ok {
		return errors.New("a connection without TLS")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown == nil {
		c.shown = make(map[string]bool)
	}
	c.shown[secure.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
	return nil
}

func (c *certificates) saw(t testing.TB, cert string) bool {
	t.Helper()
	block, _ := pem.Decode([]byte(cert))
	parsed, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown[parsed.SerialNumber.String()]
}

func TestCertificatesAreReplacedWhileServing(t *testing.T) {
	ctx := testContext(t)
	s := startSecured(t, 0, "scram-sha-256")
	n := s.at(0)
	var seen certificates
	m := open(t, s.DSN(), maxConns(4), func(c *hasql.Config) {
		c.Nodes[0].Pool.AfterConnect = seen.AfterConnect
	})
	must(t, m.Ready(ctx, 1, 0))
	must(t, m.Master().Ping(ctx))
	m.awaitEvent("the master", 0, func(e event) bool { return e.master })
	mark := m.mark()

	// A new one of the same authority: nobody notices.
	enough, served := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			select {
			case <-enough:
				served <- nil
				return
			default:
				_, err = m.Master().Exec(ctx, "insert into t values (0)")
			}
		}
		served <- err
	}()
	cert, key := s.ca.issue(t, s.host(n.Node))
	must(t, s.show(n.Node, cert, key))
	reload(t, n)
	fill(t, m, 4)()
	close(enough)
	must(t, <-served)
	if !seen.saw(t, cert) {
		t.Error("no connection was shown the new certificate")
	}
	endSessions(t, n, 0)
	writeAgain(t, m)
	m.undisturbed(mark)

	// One of another authority: what is connected works on, and nothing new is connected. The node answers, so it isn't down
	// however long that lasts; silence would be taken for that at the second probe here.
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	defer conn.Release()
	cert, key = newAuthority(t).issue(t, s.host(n.Node))
	must(t, s.show(n.Node, cert, key))
	reload(t, n)
	endSessions(t, n, conn.Conn().PgConn().PID())
	m.awaitStatus(n, hasql.StatusSuspect)
	for range 5 {
		must(t, m.WaitNextCheck(ctx))
		_, err := conn.Exec(ctx, "insert into t values (1)")
		must(t, err)
	}
	if got := state(m.Snapshot(), n); got.Status != hasql.StatusSuspect || !isA[x509.UnknownAuthorityError](got.Cause) {
		t.Errorf("a node whose certificate is refused: %v", &got)
	}

	// And back.
	cert, key = s.ca.issue(t, s.host(n.Node))
	must(t, s.show(n.Node, cert, key))
	reload(t, n)
	writeAgain(t, m)
	if events, _ := m.seen(); slices.ContainsFunc(events, func(e event) bool { return e.new.Status == hasql.StatusDown }) {
		t.Error("the node was taken for down")
	}
}

func TestClientCertificates(t *testing.T) {
	ctx := testContext(t)
	s := startSecured(t, 1, "cert")
	with := func(a *authority, role string) string {
		cert, key := a.issue(t, role)
		return fmt.Sprintf(" sslcert=%s sslkey=%s", writeTemp(t, cert), writeTemp(t, key))
	}
	m := open(t, s.DSN()+with(s.ca, "app"))
	must(t, m.Ready(ctx, 1, 1))
	must(t, m.Replica().Ping(ctx))
	if got := scan[string](t, m.Master(), "select client_dn from pg_stat_ssl where pid = pg_backend_pid()"); got != "/CN=app" {
		t.Errorf("the server knows the client as %s", got)
	}
	must(t, s.Nodes()[0].Kill())
	must(t, s.Nodes()[1].Promote(ctx))
	_, err := m.Master().Exec(ctx, "insert into t values (1)")
	must(t, err)

	for name, test := range map[string]struct{ identity, cause string }{
		"none":             {"", "connection requires a valid client certificate"},
		"of another role":  {with(s.ca, "somebody"), `certificate authentication failed for user "app"`},
		"of another house": {with(newAuthority(t), "app"), "tls: unknown certificate authority"},
	} {
		t.Run(name, func(t *testing.T) {
			m := open(t, s.DSN()+test.identity, budget(300*time.Millisecond))
			err := hopeless(t, m, s.at(1).name+" suspect")
			for !strings.Contains(err.Error(), test.cause) && errors.Is(err, syscall.ECONNRESET) {
				err = hopeless(t, m, s.at(1).name+" suspect") // the server hung up before we read what it said
			}
			toldOnce(t, err, s.at(1).name+" suspect", test.cause)
		})
	}
}

func TestClientCertificatesRotateThroughBeforeConnect(t *testing.T) {
	ctx := testContext(t)
	s := startSecured(t, 0, "cert")
	var current atomic.Pointer[tls.Certificate]
	rotate := func() (serial string) {
		t.Helper()
		pair, err := tls.X509KeyPair(pemPair(s.ca.issue(t, "app")))
		must(t, err)
		current.Store(&pair)
		return pair.Leaf.SerialNumber.String()
	}
	serial := rotate()
	m := open(t, s.DSN(), func(c *hasql.Config) {
		c.Nodes[0].Pool.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
			config.TLSConfig.Certificates = []tls.Certificate{*current.Load()}
			return nil
		}
	})
	must(t, m.Ready(ctx, 1, 0))
	shown := "select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()"
	if got := scan[string](t, m.Master(), shown); got != serial {
		t.Errorf("the server was shown %s, not %s", got, serial)
	}
	serial = rotate()
	endSessions(t, s.at(0), 0)
	writeAgain(t, m)
	if got := scan[string](t, m.Master(), shown); got != serial {
		t.Errorf("the server was shown %s, not the new %s", got, serial)
	}
	for _, got := range scan[[]string](t, connect(t, s.at(0)), "select array_agg(client_serial::text) from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'app'") {
		if got != serial { // the monitor's too
			t.Errorf("a session of %s", got)
		}
	}
}

func pemPair(cert, key string) (certPEM, keyPEM []byte) { return []byte(cert), []byte(key) }

func TestChannelBindingThatIsMissingIsToldByNodeAndCause(t *testing.T) {
	s := startSecured(t, 0, "password")
	m := open(t, s.DSN()+" channel_binding=require", budget(300*time.Millisecond))
	err := hopeless(t, m, s.at(0).name+" suspect")
	toldOnce(t, err, s.at(0).name+" suspect", "channel binding required but server did not authenticate using channel binding")
	m.silentAbout(appPassword, err)
}

// vault is where a service gets its password from.
type vault struct {
	mu       sync.Mutex
	password string
	asked    int
}

func (v *vault) set(password string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.password = password
}

func (v *vault) BeforeConnect(_ context.Context, config *pgx.ConnConfig) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	config.Password = v.password
	return nil
}

func TestPasswordsRotateThroughAFailover(t *testing.T) {
	ctx := testContext(t)
	s := startSecured(t, 1, "scram-sha-256")
	master, replica := s.at(0), s.at(1)
	v := &vault{password: appPassword}
	m := open(t, s.DSN()+" channel_binding=require", maxConns(4), func(c *hasql.Config) {
		for _, n := range c.Nodes {
			n.Pool.ConnConfig.Password = "of no use"
			n.Pool.BeforeConnect = v.BeforeConnect
		}
	})
	must(t, m.Ready(ctx, 1, 1))
	conn, err := m.AcquireMaster(ctx)
	must(t, err)
	defer conn.Release()

	// The vault is late: what is connected works on, and who asks anew is told why not.
	const second, third = "the second Pa55w0rd", "the third Pa55w0rd"
	execute(t, master, "alter role app password '"+second+"'")
	must(t, replica.WaitStreaming(ctx, master.Node))
	endSessions(t, master, conn.Conn().PgConn().PID())
	m.awaitStatus(master, hasql.StatusSuspect)
	_, err = conn.Exec(ctx, "insert into t values (1)")
	must(t, err)
	refused := m.Ready(canceled(), 1, 1)
	none, _ := errors.AsType[*hasql.NoNodeError](refused)
	if pg, ok := errors.AsType[*pgconn.PgError](none.Nodes[0].Cause); !ok || pg.Code != "28P01" {
		t.Errorf("what is told of the old password: %v", refused)
	}
	v.set(second)
	writeAgain(t, m)

	// It rotates again while there is no master.
	waiting := make(chan error, 1)
	must(t, master.Kill())
	m.awaitStatus(master, hasql.StatusDown)
	go func() {
		_, err := m.Master().Exec(ctx, "insert into t values (2)")
		waiting <- err
	}()
	must(t, replica.Promote(ctx))
	must(t, <-waiting)
	execute(t, replica, "alter role app password '"+third+"'")
	v.set(third)
	endSessions(t, replica, 0)
	writeAgain(t, m)
	fill(t, m, 4)()
	must(t, master.Rejoin(ctx, replica.Node))
	must(t, m.Ready(ctx, 1, 1))
	for _, password := range []string{appPassword, second, third} {
		m.silentAbout(password, refused)
	}
}
