package browser

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/pghasql/hasql/internal/pgcluster"
)

// patience is a time limit that also suits a busy machine.
const patience = 4 * time.Minute

// pictures is the folder for pictures of the page; "" for no pictures.
var pictures = os.Getenv("HASQL_SCREENSHOTS")

// TestFailoverOnThePage presses the button that kills the master, and checks what the page shows.
func TestFailoverOnThePage(t *testing.T) {
	p := page{t, openBrowser(t)}
	url := startDemo(t)

	p.do(chromedp.Navigate(url), waitFor(`document.querySelector(".node.master h3")?.textContent === "pg1"`))
	p.do(waitFor(`document.querySelectorAll(".node.replica").length === 2`))
	p.want(`document.getElementById("last-length").textContent`, "–")
	p.tabOrder()
	if pictures != "" { // the pictures shall show a history
		p.do(waitFor(`/for (1[2-9]|\d\d+) s/.test(document.getElementById("facts").textContent)`))
	}

	p.do(chromedp.Focus(chromedp.CSS(`[data-action=crash][data-node=pg1]`)), chromedp.KeyEvent(kb.Enter))
	p.do(waitFor(`document.querySelector(".node.down h3")?.textContent === "pg1"`))
	p.do(waitFor(`["pg2", "pg3"].includes(document.querySelector(".node.master h3")?.textContent)`))
	p.do(waitFor(`Number(document.getElementById("last-length").textContent) > 0`))
	p.want(`document.activeElement.dataset.action + " " + document.activeElement.dataset.node`, "crash pg1") // focus stays
	p.want(`document.getElementById("last-what").textContent.startsWith("crash, pg1 → ")`, true)
	p.want(`/crash ?pg1 → pg\d ?[\d,]+ ms/.test(document.getElementById("outages").textContent)`, true)
	p.want(`/Last failover: \d+ ms, pg1 to pg[23]/.test(document.getElementById("timeline").ariaLabel)`, true)
	p.want(`document.getElementById("log").textContent.includes("pg1 killed")`, true)
	p.do(waitFor(`document.getElementById("log").textContent.includes("writes again after")`))
	p.do(waitFor(outagePainted))
	p.want(`document.getElementById("lost").textContent + document.getElementById("stray").textContent`, "00")

	p.press("repair", "pg1")
	p.do(waitFor(`document.querySelectorAll(".node.replica").length === 2`))

	p.do(waitFor(`document.getElementById("switchover").ariaDisabled === "false"`))
	p.do(chromedp.Click(chromedp.CSS(`#switchover`)))
	p.do(waitFor(`document.getElementById("outages").textContent.includes("switchover")`))
	p.do(waitFor(`document.querySelectorAll(".node.replica").length === 2`))

	p.do(chromedp.Click(chromedp.CSS(`#pause`)))
	p.do(waitFor(`document.getElementById("headline").textContent === "Writes are paused"`))
	p.want(`document.getElementById("pause").textContent`, "Resume writes")
	p.do(chromedp.Click(chromedp.CSS(`#pause`)))
	p.do(waitFor(`document.getElementById("pause").textContent === "Pause writes"`))

	replica := get[string](p, `document.querySelector(".node.replica h3").textContent`)
	p.press("drain", replica)
	p.do(waitFor(`document.querySelector(".node.banned .role")?.textContent === "drained"`))
	p.press("unban", replica)
	p.do(waitFor(`document.querySelectorAll(".node.replica").length === 2`))

	old := get[string](p, `document.querySelector(".node.master h3").textContent`)
	p.press("freeze", old)
	p.do(waitFor(`document.getElementById("outages").textContent.includes("freeze")`))
	p.press("thaw", old)
	p.do(waitFor(`document.querySelector(".node.stale .role")?.textContent === "fenced"`))
	p.do(waitFor(`document.getElementById("busy").textContent === ""`))
	p.want(`document.querySelector(".node.stale h3").textContent`, old)
	p.want(`document.getElementById("lost").textContent + document.getElementById("stray").textContent`, "00")
	p.shots()
}

// outagePainted is an expression: whether the timeline shows a band in the colour of outages.
const outagePainted = `(() => {
	const canvas = document.getElementById("timeline");
	const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
	const color = getComputedStyle(canvas).getPropertyValue("--outage").trim();
	const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
	for (let i = 0; i < pixels.length; i += 4) {
		if (pixels[i] === r && pixels[i + 1] === g && pixels[i + 2] === b && pixels[i + 3] === 255) return true;
	}
	return false;
})()`

// startDemo starts the command, and returns the address of its page.
func startDemo(t *testing.T) (url string) {
	t.Helper()
	if _, err := pgcluster.FindBinDir(); err != nil && os.Getenv("HASQL_REQUIRE_POSTGRES") == "" {
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "hasql")
	if out, err := exec.Command("go", "build", "-C", "..", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.Command(program, "demo", "--hold", "--listen", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		err := cmd.Wait()
		t.Fatalf("the demo said nothing: %v", err)
	}
	url, _, _ = strings.Cut(lines.Text(), " ")
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			t.Log(lines.Text())
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop the demo: %v", err)
		}
		<-drained
		if err := cmd.Wait(); err != nil {
			t.Errorf("the demo: %v", err)
		}
	})
	return url
}

// openBrowser starts a Chromium, or skips the test where there is none.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	path := findChromium(t)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // the browser lives as long as the context of the first call
		t.Fatalf("start %s: %v", path, err)
	}
	ctx, cancel = context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)
	return ctx
}

func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("HASQL_REQUIRE_CHROMIUM") != "" {
		t.Fatal("Chromium is not on this machine")
	}
	t.Skip("Chromium is not on this machine (scripts/need.sh chromium): the page is not tested")
	return ""
}

// action is a step in the browser without a result.
type action = chromedp.Action[chromedp.Void]

// waitFor waits until an expression is true.
func waitFor(expression string) action {
	return chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(0), chromedp.WithPollingInterval(20*time.Millisecond))
}

// page is what the browser shows.
type page struct {
	t   *testing.T
	ctx context.Context
}

func (p page) do(actions ...action) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		state, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		p.t.Fatalf("%v; the page shows:\n%s", err, state)
	}
}

// get returns the value of an expression.
func get[T any](p page, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// want compares the value of an expression.
func (p page) want(expression string, want any) {
	p.t.Helper()
	if got := get[any](p, expression); got != want {
		p.t.Errorf("%s: got %v, want %v", expression, got, want)
	}
}

// press clicks a node's button as soon as it is on offer.
func (p page) press(action, node string) {
	p.t.Helper()
	button := fmt.Sprintf("[data-action=%s][data-node=%s]", action, node)
	p.do(waitFor(fmt.Sprintf(`document.querySelector(%q)?.ariaDisabled === "false"`, button)), chromedp.Click(chromedp.CSS(button)))
}

// tabOrder walks through the page with the Tab key.
func (p page) tabOrder() {
	p.t.Helper()
	want := []string{"switchover", "pause"}
	for _, node := range []string{"pg1", "pg2", "pg3"} {
		want = append(want, "crash "+node, "freeze "+node, "repair "+node, "drain "+node)
	}
	want = append(want, "outages-title", "log-title")
	var got []string
	for range want {
		p.do(chromedp.KeyEvent(kb.Tab))
		name := get[string](p, `(() => {
			const e = document.activeElement;
			return e.dataset.action ? [e.dataset.action, e.dataset.node].filter(Boolean).join(" ") : e.getAttribute("aria-labelledby") ?? e.tagName;
		})()`)
		if style := get[string](p, `getComputedStyle(document.activeElement).outlineStyle`); style != "solid" {
			p.t.Errorf("the focus on %q is not visible: outline %s", name, style)
		}
		got = append(got, name)
	}
	if !slices.Equal(got, want) {
		p.t.Errorf("the Tab key goes to\n%q, want\n%q", got, want)
	}
}

// shots checks the page in each size and colour scheme, and keeps pictures of the large size.
func (p page) shots() {
	p.t.Helper()
	for _, width := range []int64{360, 1280} {
		for _, scheme := range []string{"light", "dark"} {
			p.do(chromedp.EmulateViewport(width, 1076), chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 1, 1))
			_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			if err != nil {
				p.t.Fatal(err)
			}
			p.want(fmt.Sprintf(`matchMedia("(prefers-color-scheme: %s)").matches`, scheme), true)
			p.want(`document.documentElement.scrollWidth <= innerWidth`, true)
			p.do(waitFor(outagePainted)) // in the scheme's own colour
			if pictures != "" && width == 1280 {
				p.keep(filepath.Join(pictures, "dashboard-"+scheme+".png"))
			}
		}
	}
}

// keep takes a picture of what is in view.
func (p page) keep(file string) {
	p.t.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](`document.activeElement.blur(); scrollTo(0, 0)`))
	picture, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(file, picture, 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
