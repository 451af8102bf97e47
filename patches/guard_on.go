//go:build !evenkeel_unguarded

package patches

// guarded says that every patch is applied in-process before it is sent. A test
// build with the tag evenkeel_unguarded leaves that out, as a negative control.
const guarded = true
