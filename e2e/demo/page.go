package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"sigs.k8s.io/yaml"
)

// page writes what the demo shows.
type page struct {
	out     io.Writer
	colored bool
}

// newPage returns a page that is colored if out is a terminal and NO_COLOR (https://no-color.org) isn't set.
func newPage(out io.Writer) page {
	p := page{out: out}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := file.Stat()
		p.colored = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// The colors of a page, as SGR parameters.
const (
	bold  = "1"
	red   = "31"
	green = "32"
)

func (p page) color(color, text string) string {
	if !p.colored {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (p page) title(format string, args ...any) {
	fmt.Fprintf(p.out, "%s\n\n", p.color(bold, fmt.Sprintf(format, args...)))
}

// text writes an indented paragraph, or nothing for the empty text.
func (p page) text(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintln(p.out, strings.TrimRight("  "+line, " "))
	}
	fmt.Fprintln(p.out)
}

func (p page) command(format string, args ...any) {
	fmt.Fprintf(p.out, "  %s\n", p.color(bold, "$ "+fmt.Sprintf(format, args...)))
}

// diff writes what differs between two objects as YAML, with two lines of context.
func (p page) diff(before, after any) error {
	var texts [2]string
	for i, object := range []any{before, after} {
		text, err := yaml.Marshal(object)
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		texts[i] = string(text)
	}
	const context = 2
	unified, err := udiff.ToUnified("", "", texts[0], udiff.Lines(texts[0], texts[1]), context)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(unified), "\n")[2:] // without the file names
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "@@"):
			if i > 0 {
				fmt.Fprintln(p.out, "      …")
			}
			continue
		case strings.HasPrefix(line, "+"):
			line = p.color(green, line)
		case strings.HasPrefix(line, "-"):
			line = p.color(red, line)
		}
		fmt.Fprintln(p.out, "    "+line)
	}
	fmt.Fprintln(p.out)
	return nil
}
