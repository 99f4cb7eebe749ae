package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

const orderHelp = `The order goes to the services themselves, to what they have mounted as hasqlhttp.Admin: each --url is one process that
uses the cluster. Without --url the command takes HASQL_ADMIN_URL, several with commas between them. The token is that of
HASQL_ADMIN_TOKEN. All processes get the order at the same time, and each one's answer is a line.

Exit status: 0 if all obeyed; 1 if one refused (no such node, the last one of its role without --force); 2 if one could not be
asked (wrong usage, no connection, a wrong token); 3 if connections were still in use when the time was up; 130 after Ctrl-C.`

// answerLimit is how long a service may take for its answer, beside the time that the order itself waits.
const answerLimit = 10 * time.Second

func newOrderCommands() []*cobra.Command {
	ban := newOrderCommand("ban NODE", "Take a node out of service", `Takes a node out of service: no new work. What is in use stays.`)
	ban.flags("for", "reason", "force")
	drain := newOrderCommand("drain NODE", "Take a node out of service and wait until nobody uses it",
		`Takes a node out of service, and waits until none of its connections is in use. If that takes too long the node stays
out of service.`)
	drain.flags("for", "reason", "force", "timeout")
	unban := newOrderCommand("unban NODE", "Put a node back into service", `Ends what ban and drain began.`)
	pause := newOrderCommand("pause", "Hold writes back, for a switchover that fails no transaction",
		`Holds back every new use of the master, and waits until it is not in use. Writes wait, for AcquireTimeout at most. The pause
ends by "hasql resume", or by itself after --for. If one process cannot pause, the pause is ended in all.`)
	pause.flags("for", "timeout")
	resume := newOrderCommand("resume", "End a pause", `Ends what pause began.`)
	return []*cobra.Command{ban.Command, drain.Command, unban.Command, pause.Command, resume.Command}
}

// orderCommand is a subcommand that gives an order to services.
type orderCommand struct {
	*cobra.Command
	urls    []string
	form    url.Values
	texts   map[string]*string // of flags, by the name of the field
	force   bool
	timeout time.Duration
}

func newOrderCommand(use, short, long string) *orderCommand {
	c := &orderCommand{form: make(url.Values), texts: make(map[string]*string)}
	wanted := len(strings.Fields(use)) - 1
	c.Command = &cobra.Command{
		Use: use, Short: short, Long: long + "\n\n" + orderHelp,
		Args: cobra.ExactArgs(wanted),
		RunE: func(_ *cobra.Command, args []string) error { return c.run(args) },
	}
	c.Flags().StringSliceVar(&c.urls, "url", nil, "`address` of a service's admin handler, once for each process")
	return c
}

// flags adds flags of the order, which are fields of the form.
func (c *orderCommand) flags(names ...string) {
	for _, name := range names {
		switch name {
		case "for":
			c.texts["duration"] = c.Flags().String("for", "", "`duration` after which it ends by itself, such as 1h (pause: 1m by default)")
		case "reason":
			c.texts["reason"] = c.Flags().String("reason", "", "`text` for the logs and errors of the services")
		case "force":
			c.Flags().BoolVar(&c.force, "force", false, "also if it is the last node that is up in its role")
		case "timeout":
			c.Flags().DurationVar(&c.timeout, "timeout", 30*time.Second, "how long to wait for connections in use")
		}
	}
}

func (c *orderCommand) run(args []string) error {
	if len(c.urls) == 0 && os.Getenv("HASQL_ADMIN_URL") != "" {
		c.urls = strings.Split(os.Getenv("HASQL_ADMIN_URL"), ",")
	}
	token := os.Getenv("HASQL_ADMIN_TOKEN")
	switch {
	case len(c.urls) == 0:
		return failed(c.Command, exitUnable, errors.New("no service is named; give --url or set HASQL_ADMIN_URL"))
	case token == "":
		return failed(c.Command, exitUnable, errors.New("HASQL_ADMIN_TOKEN is not set"))
	}
	c.form.Set("order", c.Name())
	if len(args) > 0 {
		c.form.Set("node", args[0])
	}
	for field, text := range c.texts {
		if *text != "" {
			c.form.Set(field, *text)
		}
	}
	if c.force {
		c.form.Set("force", "true")
	}
	if c.timeout != 0 {
		c.form.Set("timeout", c.timeout.String())
	}
	err := c.give(c.Context(), token, c.form)
	if err != nil && c.Name() == "pause" {
		// A pause in some of the processes holds writes back and protects none.
		undone := c.give(context.WithoutCancel(c.Context()), token, url.Values{"order": {"resume"}})
		if undone != nil {
			fmt.Fprintln(c.ErrOrStderr(), "hasql: some processes may still pause, until their time is over")
		}
	}
	return err
}

// give gives an order to all services at once. Its error is the worst of them.
func (c *orderCommand) give(ctx context.Context, token string, form url.Values) error {
	results := make([]*exitError, len(c.urls))
	var all sync.WaitGroup
	for i, to := range c.urls {
		all.Go(func() { results[i] = c.send(ctx, strings.TrimSpace(to), token, form) })
	}
	all.Wait()
	status, obeyed := 0, 0
	for i, result := range results {
		text := form.Get("order") + ": done"
		if result == nil {
			obeyed++
		} else {
			text, status = form.Get("order")+": "+result.text, max(status, result.status)
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", shownURL(c.urls[i]), text)
	}
	if status == 0 {
		return nil
	}
	return failed(c.Command, status, fmt.Errorf("%d of %d processes obeyed", obeyed, len(c.urls)))
}

// shownURL is a URL without a password.
func shownURL(text string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return "a URL that makes no sense"
	}
	return u.Redacted()
}

// noRedirects does not follow redirects: the token is for this address alone.
var noRedirects = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// send gives an order to one service.
func (c *orderCommand) send(ctx context.Context, to, token string, form url.Values) *exitError {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout+answerLimit, errors.New("no answer"))
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return &exitError{exitUnable, "this is no URL"}
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := noRedirects.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the line begins with the URL
		}
		return &exitError{exitUnable, err.Error()}
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	var answer struct{ Error string }
	_ = json.NewDecoder(response.Body).Decode(&answer) // another server's answer may be anything
	text := printable(cmp.Or(answer.Error, response.Status+"; is this the address of hasqlhttp.Admin?"))
	switch response.StatusCode {
	case http.StatusNotFound, http.StatusConflict:
		if answer.Error != "" {
			return &exitError{exitNo, text}
		}
	case http.StatusGatewayTimeout:
		if answer.Error != "" {
			return &exitError{exitTimedOut, text}
		}
	}
	return &exitError{exitUnable, text}
}
