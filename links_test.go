package hasql

import (
	"fmt"
	"html"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"
)

// readmeLines is how long README.md may be: what somebody reads before deciding. The rest has its page in docs/.
const readmeLines = 200

func TestReadmeIsShort(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(readme), "\n"); lines > readmeLines {
		t.Errorf("README.md has %d lines, at most %d are allowed: move the details to a page in docs/", lines, readmeLines)
	}
}

// TestLinksLeadSomewhere checks every link inside the repository, and that each page can be reached from README.md.
func TestLinksLeadSomewhere(t *testing.T) {
	pages, err := readPages(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range pages.problems() {
		t.Error(problem)
	}
}

// TestPlacesForChangesExist keeps the table "Where do I…" of CONTRIBUTING.md true when files are renamed.
func TestPlacesForChangesExist(t *testing.T) {
	contributing, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(contributing), "## Where do I…")
	section, _, _ = strings.Cut(section, "\n## ")
	places := regexp.MustCompile("`([^`]+(?:\\.go|/))`").FindAllStringSubmatch(section, -1)
	if len(places) == 0 {
		t.Error("no place is named")
	}
	for _, place := range places {
		if _, err := os.Stat(place[1]); err != nil {
			t.Errorf("%s does not exist", place[1])
		}
	}
	for _, place := range regexp.MustCompile("`(\\w+)` in `([^`]+\\.go)`").FindAllStringSubmatch(section, -1) {
		if source, err := os.ReadFile(place[2]); err == nil && !regexp.MustCompile(`\b`+place[1]+`\b`).Match(source) {
			t.Errorf("there is no %s in %s", place[1], place[2])
		}
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	repository := fstest.MapFS{
		"README.md": {Data: []byte("# Title\n" +
			"[good](docs/a.md#what-is-it-1) [file](main.go) [folder](docs) [web](https://example.org/#x) <a href=\"#title\">up</a>\n" +
			"[gone](docs/gone.md) ![gone](gone.png) [no anchor](#titel) [no anchor there](docs/a.md#what-is-it-2) [code](main.go#title)\n" +
			"<img srcset=\"dark.png\"> [ref]\n\n[ref]: gone-too.md\n" +
			"`[code](not-a-link.md)`\n```\n# no heading\n[code](not-a-link.md)\n```\n[in code](#no-heading)\n" +
			"[outside](../outside.md) [absolute](/docs/a.md)\n")},
		"docs/a.md":      {Data: []byte("## What is it?\n## `What` is *[it](../README.md)*…\n[up](../README.md#title) [broken](a.md#x)\n")},
		"docs/b.md":      {Data: []byte("[broken](c.md)\n")},
		"main.go":        {},
		".hidden/bad.md": {Data: []byte("[broken](c.md)\n")},
	}
	pages, err := readPages(repository)
	if err != nil {
		t.Fatal(err)
	}
	got := pages.problems()
	want := []string{
		"README.md: docs/gone.md does not exist",
		"README.md: gone.png does not exist",
		"README.md: there is no heading for #titel",
		"README.md: there is no heading for docs/a.md#what-is-it-2",
		"README.md: there is no heading for main.go#title",
		"README.md: dark.png does not exist",
		"README.md: gone-too.md does not exist",
		"README.md: there is no heading for #no-heading",
		"README.md: ../outside.md does not exist",
		"README.md: /docs/a.md does not exist",
		"docs/a.md: there is no heading for a.md#x",
		"docs/b.md: c.md does not exist",
		"docs/b.md: no link leads here from README.md",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// pages are the texts of a repository.
type pages struct {
	repository fs.FS
	texts      map[string]string // by path, without what stands in code blocks
}

// readPages reads every .md file outside of hidden folders.
func readPages(repository fs.FS) (*pages, error) {
	p := &pages{repository: repository, texts: make(map[string]string)}
	return p, fs.WalkDir(repository, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".md":
			return nil
		}
		text, err := fs.ReadFile(repository, name)
		p.texts[name] = codeBlock.ReplaceAllString(string(text), "")
		return err
	})
}

// problems names the broken links and the pages that no link leads to.
func (p *pages) problems() (list []string) {
	reached := map[string]bool{"README.md": true}
	next := []string{"README.md"}
	for len(next) > 0 {
		from := next[0]
		next = next[1:]
		for _, link := range links(p.texts[from]) {
			if to, _ := target(from, link); !reached[to] && p.texts[to] != "" {
				reached[to] = true
				next = append(next, to)
			}
		}
	}
	for name, text := range p.texts {
		if !reached[name] {
			list = append(list, name+": no link leads here from README.md")
		}
		for _, link := range links(text) {
			if problem := p.check(name, link); problem != "" {
				list = append(list, name+": "+problem)
			}
		}
	}
	return list
}

func (p *pages) check(from, link string) (problem string) {
	to, anchor := target(from, link)
	if _, err := fs.Stat(p.repository, to); err != nil {
		return link + " does not exist"
	}
	if anchor != "" && !slices.Contains(anchors(p.texts[to]), anchor) {
		return "there is no heading for " + link
	}
	return ""
}

// target returns the file that a link leads to, by its path in the repository, and the anchor in it.
func target(from, link string) (file, anchor string) {
	file, anchor, _ = strings.Cut(link, "#")
	if file == "" {
		return from, anchor
	}
	if path.IsAbs(file) {
		return file, anchor // GitHub takes it from its own root
	}
	return path.Join(path.Dir(from), file), anchor
}

var (
	codeBlock  = regexp.MustCompile("(?ms)^[ ]*```.*?^[ ]*```[ ]*$")
	codeSpan   = regexp.MustCompile("`[^`\n]*`")
	inlineLink = regexp.MustCompile(`\]\(([^)\s]+)[^)]*\)`)
	definition = regexp.MustCompile(`(?m)^\[[^\]]+\]:\s*(\S+)`)
	attribute  = regexp.MustCompile(`(?:href|src|srcset)="([^"\s]+)`)
	heading    = regexp.MustCompile(`(?m)^#{1,6} +(.*?) *#*$`)
	linkText   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// links returns the links of a text that stay inside the repository.
func links(text string) (list []string) {
	text = codeSpan.ReplaceAllString(text, "")
	for _, form := range []*regexp.Regexp{inlineLink, definition, attribute} {
		for _, match := range form.FindAllStringSubmatch(text, -1) {
			if link := html.UnescapeString(match[1]); !strings.Contains(link, "://") && !strings.HasPrefix(link, "mailto:") {
				list = append(list, link)
			}
		}
	}
	return list
}

// anchors returns the anchors that GitHub gives to the headings of a text: letters and digits in lower case, hyphens for
// spaces, other characters left out, and a number where an anchor is there already.
func anchors(text string) (list []string) {
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		words := linkText.ReplaceAllString(match[1], "$1")
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
				return unicode.ToLower(r)
			}
			return -1
		}, words)
		unique := anchor
		for n := 1; slices.Contains(list, unique); n++ {
			unique = fmt.Sprintf("%s-%d", anchor, n)
		}
		list = append(list, unique)
	}
	return list
}
