package words

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// The colors, as ANSI escape sequences.
const (
	Red    = "\x1b[31m"
	Green  = "\x1b[32m"
	Yellow = "\x1b[33m"
	Faint  = "\x1b[2m"
	plain  = "\x1b[0m"
)

// Paint returns text in a color, "" for none.
func Paint(color, text string) string {
	if color == "" || text == "" {
		return text
	}
	return color + text + plain
}

// Cell is text in a table, and its color, "" for none.
type Cell struct{ Text, Color string }

// In returns a cell in a color.
func In(color, text string) Cell { return Cell{text, color} }

// Cells returns cells without a color.
func Cells(texts ...string) []Cell {
	cells := make([]Cell, len(texts))
	for i, text := range texts {
		cells[i].Text = text
	}
	return cells
}

// Table writes rows whose columns are aligned, in colors if colored is set. Text that could steer a
// terminal is escaped.
func Table(b *bytes.Buffer, colored bool, rows [][]Cell) {
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].Text = Printable(row[i].Text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].Text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			if !colored {
				c.Color = ""
			}
			line.WriteString(Paint(c.Color, c.Text))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.Text)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// Diff colors the added and removed lines of a unified diff.
func Diff(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		color := ""
		switch line[0] {
		case '+':
			color = Green
		case '-':
			color = Red
		}
		b.WriteString(Paint(color, strings.TrimSuffix(string(line), "\n")) + "\n")
	}
	return b.Bytes()
}
