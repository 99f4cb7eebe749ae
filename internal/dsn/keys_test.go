package dsn

import "testing"

func TestKeyProblemNamesWhatTheServerWouldRefuse(t *testing.T) {
	for key, want := range map[string]string{
		"search_path":      "",
		"my.setting":       "",
		"pool_max_conns":   "",
		"pool_max_coons":   "pool_max_coons: no such option of pgxpool",
		"sslcrl":           "sslcrl: not supported by pgx",
		"part of a secret": "unknown key: not a setting of libpq, pgx or PostgreSQL",
		"hasql_s3cr3t!":    "unknown key: not a setting of libpq, pgx or PostgreSQL",
	} {
		if got := KeyProblem(key); got != want {
			t.Errorf("%q: %q, not %q", key, got, want)
		}
	}
}
