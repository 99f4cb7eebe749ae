// Package pgproxy is a TCP proxy between a client and a server. It breaks the connection between them in the ways that
// networks do: silence in one or both directions, resets, refusals, delay.
//
// A proxy has limits. The kernel completes a client's handshake before the proxy knows of the client, and acknowledges
// everything that the client sends. So a cut looks to a new client like a server that accepts and then says nothing, as a
// server stopped by SIGSTOP does. TCP keep-alive and TCP_USER_TIMEOUT do not notice a cut, although they notice a dead
// network. To test these, and packet loss, drop packets in a network namespace.
//
// The links of Shopify's toxiproxy, used as a library, carry and delay the bytes. This package handles the sockets itself,
// because toxiproxy v2.5.0 has faults there. It closes connections in order where a reset is needed. Its timeout toxic lets
// the end of a connection through, and leaks two goroutines when it is removed while a chunk is on its way. Adding a toxic
// waits for ever for a peer that does not read, such as a frozen server.
package pgproxy
