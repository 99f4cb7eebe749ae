package dsn

// For the tests outside of the package, which know hasql.ParseConfig as well.
var (
	IsURL       = isURL
	Unsupported = unsupported
)
