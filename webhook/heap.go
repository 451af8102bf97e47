package webhook

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

// MinHeap is what the heap grows to before garbage is collected, in bytes: what admission
// keeps is a fraction of it, and by itself the collector would run for every two hundred
// reviews and take a tenth of their CPU time.
const MinHeap = 16 << 20

// KeepHeap makes the garbage collector of this process wait until the heap has least
// bytes, until ctx ends. A heap of which more than half of that is in use is collected as
// ever, when it has doubled; so this takes no memory where memory is short, and GOMEMLIMIT
// holds. Where the environment says GOGC, that is the operator's word, and KeepHeap does
// nothing (https://go.dev/doc/gc-guide).
func KeepHeap(ctx context.Context, least int64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := 100
	var adjust func(struct{})
	adjust = func(struct{}) {
		sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
		runtimemetrics.Read(sample)
		now := gcPercent(least, int64(sample[0].Value.Uint64())) //nolint:gosec // a size
		if ctx.Err() != nil {
			now = 100
		}
		if now != percent {
			percent = now
			debug.SetGCPercent(percent)
		}
		if ctx.Err() == nil {
			runtime.AddCleanup(&struct{ _ *byte }{}, adjust, struct{}{}) // after the next collection
		}
	}
	adjust(struct{}{})
}

// gcPercent returns the GOGC, in tens, with which a heap of which live bytes are in use
// is collected when it has least bytes, or has doubled.
func gcPercent(least, live int64) int {
	const base = 4 << 20 // what the collector waits for in any case, at 100, and in proportion
	percent := least * 100 / base
	if live > 0 {
		percent = min(percent, least*10/live*10-100)
	}
	return int(max(percent, 100))
}
