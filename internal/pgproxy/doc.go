// Package pgproxy puts a TCP proxy between a client and a server and breaks the connection between them in the ways
// that networks do: silence in one or both directions, resets, refusals, delay.
//
// What a proxy cannot do: the kernel completes a client's handshake before the proxy knows of it, and acknowledges all
// that a client sends. So a cut looks to a new client like a server that accepts and then says nothing, and neither
// TCP's keepalive nor TCP_USER_TIMEOUT notices one, as they would a dead network; a server stopped by SIGSTOP is the
// same in both. For the rest, and for packet loss, drop packets in a network namespace.
//
// Bytes and their delay are the business of the links of Shopify's toxiproxy, which is used as a library. The sockets
// are this package's own, because of what toxiproxy v2.5.0 does with them: it ends connections in order where a reset
// is meant; its timeout toxic lets the end of a connection through, and leaves two goroutines behind when it is removed
// while a chunk is on its way; and adding a toxic waits without end for a peer that does not read, such as a frozen
// server.
package pgproxy
