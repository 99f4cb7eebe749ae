// Package hasqlslog lets a *slog.Logger receive what a [hasql.PoolManager] logs:
//
//	config.Logger = hasqlslog.New(slog.Default())
//
// The entries keep their levels, and their fields the types: a time.Duration arrives as slog.KindDuration, an error as the
// error itself, so errors.As works in a handler. The attribute logger is hasql.
package hasqlslog

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a zap.Logger that writes to the handler of l, for hasql.Config.Logger. The handler decides which levels are logged.
// A slow handler delays later entries and hooks, but never routing.
func New(l *slog.Logger) *zap.Logger { return zap.New(core{l.Handler()}) }

// core is a zapcore.Core that writes to a slog.Handler.
type core struct{ handler slog.Handler }

// levelOf returns the level of the same name. Both packages have the same four levels, with 4 and 1 between two of them.
func levelOf(l zapcore.Level) slog.Level { return 4 * slog.Level(l) }

// Enabled reports whether the handler wants entries of this level.
func (c core) Enabled(l zapcore.Level) bool {
	return c.handler.Enabled(context.Background(), levelOf(l))
}

// With returns a core that adds fields to each entry.
func (c core) With(fields []zapcore.Field) zapcore.Core {
	return core{c.handler.WithAttrs(attrs(fields))}
}

// Check adds c to the cores that write the entry.
func (c core) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write passes an entry to the handler.
func (c core) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	record := slog.NewRecord(entry.Time, levelOf(entry.Level), entry.Message, 0)
	if entry.LoggerName != "" {
		record.AddAttrs(slog.String("logger", entry.LoggerName))
	}
	record.AddAttrs(attrs(fields)...)
	return c.handler.Handle(context.Background(), record)
}

// Sync does nothing: a handler has no buffer that could be asked to be written.
func (c core) Sync() error { return nil }

// attrs returns the attributes that fields are. A field that has several values, as one of zap.Inline has, is as many attributes.
func attrs(fields []zapcore.Field) (list []slog.Attr) {
	for _, f := range fields {
		if err, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			list = append(list, slog.Any(f.Key, err))
			continue
		}
		values := zapcore.NewMapObjectEncoder()
		f.AddTo(values)
		for _, key := range slices.Sorted(maps.Keys(values.Fields)) {
			list = append(list, slog.Any(key, values.Fields[key]))
		}
	}
	return list
}
