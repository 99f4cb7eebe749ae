package main

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// align pads the cells of rows to columns of equal width and joins them. right says which columns are aligned to the right.
func align(rows [][]string, right []bool, separator string) (lines []string) {
	widths := columnWidths(rows)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			if right[i] {
				cells[i] = runewidth.FillLeft(cell, widths[i])
			} else {
				cells[i] = runewidth.FillRight(cell, widths[i])
			}
		}
		lines = append(lines, strings.TrimRight(strings.Join(cells, separator), " "))
	}
	return lines
}

// rule is a line of dashes as wide as the columns of rows.
func rule(rows [][]string, separator string) string {
	var dashes []string
	for _, width := range columnWidths(rows) {
		dashes = append(dashes, strings.Repeat("-", width))
	}
	return strings.Join(dashes, separator)
}

func columnWidths(rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	return widths
}

// printable writes control characters as Go does, \n or \x1b. Otherwise they would break the lines of a table or control the
// terminal.
func printable(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
