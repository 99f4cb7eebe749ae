// Package tools pins the linters of this repository; see the tool directive of its go.mod. It is a module of its own, so that
// nothing else depends on them.
package tools
