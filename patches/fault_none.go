//go:build !evenkeel_broken_patch

package patches

// addFault is a generator that does nothing. A test build with the tag
// evenkeel_broken_patch has one that breaks every patch instead.
func addFault(*input, *output) {}
