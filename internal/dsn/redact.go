package dsn

import (
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// plain matches values that may be shown. Other values are kept back, because one value may really be several: if a quote
// or a percent sign is missing or superfluous, the value may also contain the password.
var plain = regexp.MustCompile(`^[\pL\pN_.,:%+/-]*$`)

// Showable reports whether a value may be shown, because it cannot contain a password.
func Showable(value string) bool { return plain.MatchString(value) }

// Show names a setting in an error, together with its value if that may be shown.
func Show(key, value string) string {
	if !Showable(value) {
		return key
	}
	return key + "=" + value
}

// driverProblem turns an error of pgx's parser into one without any part of the DSN that could be a password. pgx masks
// passwords only where it recognises them, repeats pieces of malformed input (which can be pieces of a password), and
// carries the whole DSN in its error value; so neither its value nor what it repeats is kept.
func driverProblem(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); !ok {
		return errors.New("not a connection string")
	}
	text := err.Error()
	if file, ok := errors.AsType[*fs.PathError](err); ok && !plain.MatchString(file.Path) {
		text = strings.ReplaceAll(text, file.Path, "file")
	}
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	text = repeated.ReplaceAllString(harmless.Replace(text), "$1")
	if i := strings.IndexByte(text, '"'); i >= 0 {
		text = strings.TrimRight(strings.TrimSuffix(text[:i], "(strconv.ParseInt: parsing "), " :(")
	}
	text = strings.ReplaceAll(text, "\x00", `"`)
	if text == "invalid port" {
		text = "port: not a number from 1 to 65535"
	}
	return errors.New(text)
}

// repeated matches values that messages of pgx's parser end with and do not quote.
var repeated = regexp.MustCompile(`(?s)( value| service| service file): .*`)

// harmless are the quotations in messages of pgx's parser that do not come from its input.
var harmless = strings.NewReplacer(`"="`, "\x00=\x00", `"]"`, "\x00]\x00", `":"`, "\x00:\x00", `"/"`, "\x00/\x00",
	`"sslcert"`, "\x00sslcert\x00", `"sslkey"`, "\x00sslkey\x00")
