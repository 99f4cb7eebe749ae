package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pghasql/hasql/internal/human"
)

// printer writes results one after the other: begin, then row for each row, then end. The result of a command has no columns.
type printer interface {
	begin(fields []pgconn.FieldDescription) error
	row(values [][]byte) error // in the server's text format, nil for NULL; valid only during the call
	end(tag pgconn.CommandTag) error
}

func newPrinter(w io.Writer, asCSV, asJSON bool) printer {
	switch {
	case asCSV:
		return &csvPrinter{w: csv.NewWriter(w)}
	case asJSON:
		return &jsonPrinter{w: w}
	}
	return &tablePrinter{w: w}
}

// tablePrinter keeps all rows of a result, because the width of a column is known only after the last row.
type tablePrinter struct {
	w     io.Writer
	right []bool
	rows  [][]string // the first row holds the headings
}

func (p *tablePrinter) begin(fields []pgconn.FieldDescription) error {
	p.right, p.rows = make([]bool, len(fields)), [][]string{make([]string, len(fields))}
	for i, f := range fields {
		p.right[i] = slices.Contains(numeric, f.DataTypeOID)
		p.rows[0][i] = printable(f.Name)
	}
	return nil
}

func (p *tablePrinter) row(values [][]byte) error {
	cells := make([]string, len(values))
	for i, v := range values {
		if cells[i] = printable(string(v)); v == nil {
			cells[i] = "NULL"
		}
	}
	p.rows = append(p.rows, cells)
	return nil
}

func (p *tablePrinter) end(tag pgconn.CommandTag) error {
	if len(p.right) == 0 {
		_, err := fmt.Fprintln(p.w, tag)
		return err
	}
	var b bytes.Buffer
	for i, line := range align(p.rows, p.right, " | ") {
		fmt.Fprintln(&b, line)
		if i == 0 {
			fmt.Fprintln(&b, rule(p.rows, "-+-"))
		}
	}
	fmt.Fprintf(&b, "(%s)\n", human.Count(len(p.rows)-1, "row"))
	_, err := p.w.Write(b.Bytes())
	return err
}

type csvPrinter struct {
	w       *csv.Writer
	columns int
}

func (p *csvPrinter) begin(fields []pgconn.FieldDescription) error {
	p.columns = len(fields)
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return p.write(names)
}

func (p *csvPrinter) row(values [][]byte) error {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = string(v)
	}
	return p.write(cells)
}

func (p *csvPrinter) write(cells []string) error {
	if p.columns == 0 {
		return nil
	}
	return p.w.Write(cells)
}

func (p *csvPrinter) end(pgconn.CommandTag) error {
	p.w.Flush()
	return p.w.Error()
}

// numeric are the types whose text is a number, NaN or Infinity.
var numeric = []uint32{
	pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID,
}

// jsonPrinter writes one array per result, with a row on each line.
type jsonPrinter struct {
	w     io.Writer
	names []string // of the columns, all different
	types []uint32
	rows  int
}

func (p *jsonPrinter) begin(fields []pgconn.FieldDescription) error {
	p.names, p.types, p.rows = nil, nil, 0
	for _, f := range fields {
		name := f.Name
		for n := 2; slices.Contains(p.names, name); n++ {
			name = fmt.Sprintf("%s_%d", f.Name, n)
		}
		p.names, p.types = append(p.names, name), append(p.types, f.DataTypeOID)
	}
	return nil
}

func (p *jsonPrinter) row(values [][]byte) error {
	var b bytes.Buffer
	b.WriteString(",\n")
	if p.rows == 0 {
		b.Reset()
		b.WriteByte('[')
	}
	p.rows++
	for i, v := range values {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		b.WriteByte(separator)
		b.Write(jsonString([]byte(p.names[i])))
		b.WriteByte(':')
		b.Write(jsonValue(p.types[i], v))
	}
	b.WriteByte('}')
	_, err := p.w.Write(b.Bytes())
	return err
}

func (p *jsonPrinter) end(pgconn.CommandTag) error {
	switch {
	case len(p.names) == 0:
		return nil
	case p.rows == 0:
		_, err := io.WriteString(p.w, "[]\n")
		return err
	}
	_, err := io.WriteString(p.w, "]\n")
	return err
}

// jsonValue turns a value in the server's text format into JSON. A value without a closer type in JSON becomes a string.
func jsonValue(oid uint32, text []byte) []byte {
	switch {
	case text == nil:
		return []byte("null")
	case oid == pgtype.BoolOID:
		return strconv.AppendBool(nil, string(text) == "t")
	case oid == pgtype.JSONOID || oid == pgtype.JSONBOID || slices.Contains(numeric, oid):
		var b bytes.Buffer
		if json.Compact(&b, text) == nil { // NaN is not valid JSON
			return b.Bytes()
		}
	}
	return jsonString(text)
}

func jsonString(text []byte) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.Encode(string(text)) // neither the encoder nor the buffer can fail on a string
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
