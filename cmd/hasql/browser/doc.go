// Package browser tests the page of "hasql demo" in a headless Chromium. It is a module of its own, so that the command does
// not depend on the library that drives the browser.
package browser
