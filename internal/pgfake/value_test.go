package pgfake

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestFormatText(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{true, "t"},
		{false, "f"},
		{int64(-7), "-7"},
		{uint32(7), "7"},
		{float32(1.5), "1.5"},
		{math.Inf(1), "Infinity"},
		{math.Inf(-1), "-Infinity"},
		{math.NaN(), "NaN"},
		{"text", "text"},
		{[]byte{0xab, 1}, `\xab01`},
		{time.Date(2026, 2, 3, 4, 5, 6, 7000, time.FixedZone("", 3600)), "2026-02-03 03:05:06.000007+00"},
		{time.Second, "1s"},
	} {
		equal(t, "text", formatText(c.value), c.want)
	}
}

// Whatever is encoded for a client is decoded to the same text when the client
// sends it back.
func TestBinaryRoundTrip(t *testing.T) {
	for _, c := range []struct {
		oid  uint32
		text string
	}{
		{oidBool, "t"},
		{oidBool, "f"},
		{oidInt2, "-2"},
		{oidInt4, "-4"},
		{oidInt8, "-9223372036854775808"},
		{oidFloat4, "0.1"},
		{oidFloat8, "0.1"},
		{oidText, "text"},
		{oidVarchar, "text"},
		{oidBytea, `\xab01`},
		{oidTimestamptz, "1999-12-31 23:59:59.999999+00"},
	} {
		b, err := formatBinary(c.oid, c.text)
		if err != nil {
			t.Errorf("%d %s: %v", c.oid, c.text, err)
			continue
		}
		got, err := decode(b, c.oid, 1)
		if err != nil || got != c.text {
			t.Errorf("%d %s: came back as %q, %v", c.oid, c.text, got, err)
		}
	}
	if _, err := formatBinary(oidInt4, "text"); err == nil {
		t.Error("text became an int4")
	}
	if _, err := decode([]byte{1}, oidInt8, 1); err == nil {
		t.Error("one byte became an int8")
	}
}

func TestSplitSQL(t *testing.T) {
	for sql, want := range map[string]string{
		"":                          "",
		" ; -- only; a comment":     "",
		"a; b;":                     "a|b",
		"a ';' b; c":                "a ';' b|c",
		`a ";" /* ; */; b`:          `a ";" /* ; */|b`,
		"a -- ;b\n; b":              "a -- ;b|b",
		"unfinished ' ; /* -- \" x": "unfinished ' ; /* -- \" x",
	} {
		equal(t, sql, strings.Join(splitSQL(sql), "|"), want)
	}
}

func TestParameters(t *testing.T) {
	for sql, want := range map[string]int{
		"": 0, "a $1": 1, "$2 $10 $1": 10, "'$3' $": 0, "$1 /* $2 */": 1,
	} {
		equal(t, sql, parameters(sql), want)
	}
}
