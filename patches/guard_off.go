//go:build evenkeel_unguarded

package patches

const guarded = false
