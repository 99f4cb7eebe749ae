package pgfake

import (
	"strconv"
	"strings"
)

// trimSQL is how statements are compared: no space around, no final semicolon.
func trimSQL(sql string) string {
	return strings.TrimFunc(sql, func(r rune) bool {
		return r == ';' || r == ' ' || r == '\n' || r == '\t' || r == '\r'
	})
}

// normalize drops comments, case and extra space, for the built-in statements.
func normalize(sql string) string {
	var b strings.Builder
	for rest := sql; rest != ""; {
		n, comment := token(rest)
		if comment {
			b.WriteByte(' ')
		} else {
			b.WriteString(rest[:n])
		}
		rest = rest[n:]
	}
	return strings.ToLower(strings.Join(strings.Fields(trimSQL(b.String())), " "))
}

// splitSQL cuts a simple query at its semicolons into trimmed statements, and
// leaves out those that are empty.
func splitSQL(sql string) []string {
	var statements []string
	start := 0
	keep := func(s string) {
		if normalize(s) != "" {
			statements = append(statements, trimSQL(s))
		}
	}
	for i := 0; i < len(sql); {
		n, _ := token(sql[i:])
		if sql[i] == ';' {
			keep(sql[start:i])
			start = i + 1
		}
		i += n
	}
	keep(sql[start:])
	return statements
}

// parameters returns the highest n of the $n in sql.
func parameters(sql string) int {
	highest := 0
	for i := 0; i < len(sql); {
		n, _ := token(sql[i:])
		if sql[i] == '$' {
			digits := i + 1
			for digits < len(sql) && sql[digits] >= '0' && sql[digits] <= '9' {
				digits++
			}
			if number, err := strconv.Atoi(sql[i+1 : digits]); err == nil {
				highest = max(highest, number)
			}
		}
		i += n
	}
	return highest
}

// token returns the length of what sql, not empty, begins with: a quoted string
// or name, a comment, or one byte.
func token(sql string) (n int, comment bool) {
	switch {
	case sql[0] == '\'' || sql[0] == '"':
		return upTo(sql, 1, sql[:1]), false
	case strings.HasPrefix(sql, "--"):
		return upTo(sql, 2, "\n"), true
	case strings.HasPrefix(sql, "/*"):
		return upTo(sql, 2, "*/"), true
	}
	return 1, false
}

// upTo returns the length of sql through the first end at or after from.
func upTo(sql string, from int, end string) int {
	i := strings.Index(sql[from:], end)
	if i < 0 {
		return len(sql)
	}
	return from + i + len(end)
}
