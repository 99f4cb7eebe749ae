package pgfake

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// OIDs of the types that have a binary form here. Columns and parameters of any
// other type travel as text.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidText        = 25
	oidFloat4      = 700
	oidFloat8      = 701
	oidVarchar     = 1043
	oidTimestamptz = 1184
)

// timestamptzLayout is how PostgreSQL prints a timestamptz in UTC.
const timestamptzLayout = "2006-01-02 15:04:05.999999-07"

// epoch is where PostgreSQL's binary timestamps begin.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Result is the answer to a statement. Without Columns it has no rows; without
// Tag it gets "SELECT n", or the first word of a statement without columns.
type Result struct {
	Columns []Column
	// Rows holds nil for NULL, bool, integers, floats, string, []byte and
	// time.Time as PostgreSQL prints them, anything else as fmt does.
	Rows [][]any
	Tag  string
	// Then follows the tag. In the simple protocol the statement has committed by then, and PostgreSQL may obey an order to
	// stop there. In the extended protocol it has not: such an order, or a deferred constraint, undoes it.
	Then *Error
}

// Row makes a Result of one row under the columns given to Handle.
func Row(values ...any) *Result { return &Result{Rows: [][]any{values}} }

// Column describes one column of a result.
type Column struct {
	Name string
	OID  uint32 // 0 means text
}

// Text makes a text column.
func Text(name string) Column { return Column{name, oidText} }

// Bool makes a boolean column.
func Bool(name string) Column { return Column{name, oidBool} }

// Int4 makes an integer column.
func Int4(name string) Column { return Column{name, oidInt4} }

// Int8 makes a bigint column.
func Int8(name string) Column { return Column{name, oidInt8} }

// Float8 makes a double precision column.
func Float8(name string) Column { return Column{name, oidFloat8} }

// Timestamptz makes a timestamp with time zone column.
func Timestamptz(name string) Column { return Column{name, oidTimestamptz} }

func (c Column) oid() uint32 {
	if c.OID == 0 {
		return oidText
	}
	return c.OID
}

func rowDescription(columns []Column, formats []int16) *pgproto3.RowDescription {
	fields := make([]pgproto3.FieldDescription, len(columns))
	for i, c := range columns {
		fields[i] = pgproto3.FieldDescription{
			Name:         []byte(c.Name),
			DataTypeOID:  c.oid(),
			DataTypeSize: -1,
			TypeModifier: -1,
			Format:       formatOf(formats, i),
		}
	}
	return &pgproto3.RowDescription{Fields: fields}
}

// formatOf is the format of value i: none given means text, one holds for all.
func formatOf(formats []int16, i int) int16 {
	switch {
	case len(formats) == 1:
		return formats[0]
	case i < len(formats):
		return formats[i]
	}
	return pgproto3.TextFormat
}

// encode makes the wire form of every row.
func (r *Result) encode(formats []int16) ([][][]byte, error) {
	rows := make([][][]byte, len(r.Rows))
	for i, row := range r.Rows {
		if len(row) != len(r.Columns) {
			return nil, Errorf("XX000", "pgfake: row %d has %d values for %d columns", i, len(row), len(r.Columns))
		}
		rows[i] = make([][]byte, len(row))
		for j, v := range row {
			if v == nil {
				continue
			}
			text := formatText(v)
			if formatOf(formats, j) == pgproto3.TextFormat {
				rows[i][j] = []byte(text)
				continue
			}
			b, err := formatBinary(r.Columns[j].oid(), text)
			if err != nil {
				return nil, Errorf("XX000", "pgfake: column %q: %v", r.Columns[j].Name, err)
			}
			rows[i][j] = b
		}
	}
	return rows, nil
}

// formatText prints a value as PostgreSQL does.
func formatText(v any) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)[:1]
	case string:
		return v
	case []byte:
		return `\x` + hex.EncodeToString(v)
	case float32:
		return formatFloat(float64(v), 32)
	case float64:
		return formatFloat(v, 64)
	case time.Time:
		return v.UTC().Format(timestamptzLayout)
	}
	return fmt.Sprint(v)
}

func formatFloat(f float64, bits int) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}

// formatBinary makes the binary form of a value from its text.
func formatBinary(oid uint32, text string) ([]byte, error) {
	switch oid {
	case oidBool:
		if isOn(text) || text == "t" {
			return []byte{1}, nil
		}
		return []byte{0}, nil
	case oidInt2, oidInt4, oidInt8:
		size := map[uint32]int{oidInt2: 2, oidInt4: 4, oidInt8: 8}[oid]
		n, err := strconv.ParseInt(text, 10, size*8)
		return binary.BigEndian.AppendUint64(nil, uint64(n))[8-size:], err
	case oidFloat4:
		f, err := strconv.ParseFloat(text, 32)
		return binary.BigEndian.AppendUint32(nil, math.Float32bits(float32(f))), err
	case oidFloat8:
		f, err := strconv.ParseFloat(text, 64)
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(f)), err
	case oidTimestamptz:
		t, err := time.Parse(timestamptzLayout, text)
		return binary.BigEndian.AppendUint64(nil, uint64(t.Sub(epoch).Microseconds())), err
	case oidBytea:
		return hex.DecodeString(strings.TrimPrefix(text, `\x`))
	case oidText, oidVarchar:
		return []byte(text), nil
	}
	return nil, fmt.Errorf("type %d has no binary form", oid)
}

// decode makes the text of a parameter; NULL becomes "".
func decode(b []byte, oid uint32, format int16) (string, error) {
	if format == pgproto3.TextFormat || b == nil {
		return string(b), nil
	}
	size := map[uint32]int{oidBool: 1, oidInt2: 2, oidInt4: 4, oidFloat4: 4, oidInt8: 8, oidFloat8: 8, oidTimestamptz: 8}[oid]
	if size != 0 && size != len(b) {
		return "", Errorf("22P03", "incorrect binary data format: %d bytes for type %d", len(b), oid)
	}
	switch oid {
	case oidBool:
		return formatText(b[0] != 0), nil
	case oidInt2:
		return formatText(int16(binary.BigEndian.Uint16(b))), nil
	case oidInt4:
		return formatText(int32(binary.BigEndian.Uint32(b))), nil
	case oidInt8:
		return formatText(int64(binary.BigEndian.Uint64(b))), nil
	case oidFloat4:
		return formatText(math.Float32frombits(binary.BigEndian.Uint32(b))), nil
	case oidFloat8:
		return formatText(math.Float64frombits(binary.BigEndian.Uint64(b))), nil
	case oidTimestamptz:
		micros := time.Duration(int64(binary.BigEndian.Uint64(b)))
		return formatText(epoch.Add(micros * time.Microsecond)), nil
	case oidBytea:
		return formatText(b), nil
	}
	return string(b), nil
}
