// Package browser tests the page of "hasql demo" in a headless Chromium. It is a module of its own so that nobody who
// installs the command gets what drives a browser.
package browser
