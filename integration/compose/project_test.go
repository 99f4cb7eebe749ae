package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	// root is the folder of docker-compose.yml.
	root = "../.."

	// patience is the time limit of one wait. Patroni needs seconds.
	patience = 2 * time.Minute
	// pace is the time between two attempts of a wait.
	pace = 100 * time.Millisecond
	// removalLimit is the time limit for removing everything.
	removalLimit = time.Minute
)

// project is what docker-compose.yml describes, under a name of its own and with its page on a port of its own.
type project struct {
	ctx         context.Context
	t           *testing.T
	name        string
	composition []string // the command: docker compose, or docker-compose
	env         []string
	page        string // URL
}

// start builds and starts everything, waits until it works, and has it removed at the end of the test.
func start(ctx context.Context, t *testing.T) *project {
	t.Helper()
	if os.Getenv("HASQL_COMPOSE") != "1" {
		t.Skip("this test takes minutes, so it runs only with HASQL_COMPOSE=1: make compose-test")
	}
	if output, err := exec.CommandContext(ctx, "docker", "version").CombinedOutput(); err != nil {
		t.Skipf("skipped, because no Docker engine answers: %v\n%s", err, output)
	}
	p := &project{
		ctx: ctx, t: t, name: fmt.Sprintf("hasql-test-%d", os.Getpid()),
		env: append(os.Environ(), "PORT="), // Docker chooses one
	}
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.CommandContext(ctx, c[0], append(c[1:], "version")...).Run() == nil {
			p.composition = c
			break
		}
	}
	if p.composition == nil {
		t.Skip("skipped, because Docker Compose is missing: there is neither docker compose nor docker-compose")
	}
	began := time.Now()
	lap := func(what string) {
		t.Logf("%s: %.0f s", what, time.Since(began).Seconds())
		began = time.Now()
	}
	p.env = append(p.env, strings.Fields(p.run(ctx, "scripts/base-image.sh"))...)
	lap("base images")
	p.compose("build")
	lap("images")
	t.Cleanup(p.remove)
	p.compose("up", "-d")
	p.page = "http://" + strings.TrimSpace(p.docker("port", p.container("app"), "8080/tcp"))
	p.healthy()
	p.settle()
	lap("start")
	return p
}

// remove removes everything but the images, and checks that it did.
func (p *project) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), removalLimit)
	defer cancel()
	if p.t.Failed() {
		p.t.Log(p.run(ctx, append(p.composition, "--project-name", p.name, "logs", "--no-color", "--tail", "60")...))
	}
	p.run(ctx, append(p.composition, "--project-name", p.name, "down", "--volumes")...)
	mine := "label=com.docker.compose.project=" + p.name
	for _, list := range [][]string{{"ps", "--all"}, {"volume", "ls"}, {"network", "ls"}} {
		if left := p.run(ctx, slices.Concat([]string{"docker"}, list, []string{"--quiet", "--filter", mine})...); left != "" {
			p.t.Errorf("docker %s: left behind: %s", list[0], left)
		}
	}
}

// compose runs Docker Compose.
func (p *project) compose(args ...string) string {
	p.t.Helper()
	return p.run(p.ctx, slices.Concat(p.composition, []string{"--project-name", p.name}, args)...)
}

func (p *project) docker(args ...string) string {
	p.t.Helper()
	return p.run(p.ctx, append([]string{"docker"}, args...)...)
}

// run runs a command to its end, and returns what it wrote to stdout.
func (p *project) run(ctx context.Context, command ...string) string {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = root, p.env, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// container returns the container of a service, running or not.
func (p *project) container(service string) string {
	p.t.Helper()
	return strings.TrimSpace(p.compose("ps", "--all", "--quiet", service))
}

// network returns the network that all containers are on.
func (p *project) network() string { return p.name + "_default" }

// healthy waits until Docker calls every container healthy.
func (p *project) healthy() {
	p.t.Helper()
	ids := strings.Fields(p.compose("ps", "--all", "--quiet"))
	p.poll("every container to be healthy", func() bool {
		health := p.docker(append([]string{"inspect", "--format", "{{.State.Health.Status}}"}, ids...)...)
		return !slices.ContainsFunc(strings.Fields(health), func(h string) bool { return h != "healthy" })
	})
}

// poll calls done until it returns true.
func (p *project) poll(what string, done func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for !done() {
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			p.t.Fatalf("still waiting for %s", what)
		}
	}
}

// settle waits until Patroni has all three nodes running and one of them ready to succeed the leader without loss, and
// returns the leader.
func (p *project) settle() (leader string) {
	p.t.Helper()
	var answer string
	p.poll("Patroni to have a leader, a synchronous standby and a replica", func() bool {
		answer = p.compose("exec", "-T", "pg1", "patronictl", "-c", "/etc/patroni.yml", "list", "-f", "json")
		var members []struct{ Member, Role, State string }
		if err := json.Unmarshal([]byte(answer), &members); err != nil {
			p.t.Fatalf("patronictl: %v\n%s", err, answer)
		}
		roles := make(map[string]string)
		for _, m := range members {
			if m.State == "running" || m.State == "streaming" {
				roles[m.Role] = m.Member
			}
		}
		leader = roles["Leader"]
		return len(roles) == 3 && leader != "" && roles["Sync Standby"] != "" && roles["Replica"] != ""
	})
	return leader
}

// until waits for a state of the application.
func (p *project) until(what string, is func(state) bool) (s state) {
	p.t.Helper()
	p.poll(what, func() bool {
		s = p.state()
		return is(s)
	})
	return s
}

// state asks the application.
func (p *project) state() (s state) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.page+"/api/state", http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

// state is what the test reads of the application's /api/state. Times are in milliseconds since the workload began.
type state struct {
	Now    float64 `json:"now_ms"`
	Nodes  []node
	Writes struct {
		Acknowledged, Failed, Lost, Stray int
		LastNode                          string `json:"last_acknowledging"`
	}
	Reads   struct{ Failed int }
	Outages []outage
}

// node is one of the application's view.
type node struct{ Name, Role, Status string }

// outage is one as the application felt it.
type outage struct {
	From, To    string
	Ended       float64  `json:"ended_ms"`
	Length      float64  `json:"outage_ms"`
	Cluster     *float64 `json:"cluster_outage_ms"` // how long no node accepted writes, whoever sent them
	AfterAccept *float64 `json:"after_accept_ms"`

	Fault  string `json:"-"` // what we did
	Failed int    `json:"-"` // writes
}

// address is a service's name as the application knows the node.
func address(service string) string { return service + ":5432" }
