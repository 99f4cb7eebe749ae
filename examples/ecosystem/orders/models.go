package orders

type SqlcOrder struct {
	Number int64
	Item   string
}
