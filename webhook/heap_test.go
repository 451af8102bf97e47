package webhook

import (
	"context"
	"runtime"
	runtimemetrics "runtime/metrics"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for _, c := range []struct {
		least, live int64
		want        int
	}{
		{16 << 20, 0, 400}, {16 << 20, 1 << 20, 400}, {16 << 20, 3200 << 10, 400}, {16 << 20, 4 << 20, 300},
		{16 << 20, 5 << 20, 220},
		{16 << 20, 8 << 20, 100}, {16 << 20, 12 << 20, 100}, {16 << 20, 16 << 20, 100}, {16 << 20, 1 << 40, 100},
		{0, 1 << 20, 100}, {1 << 20, 1, 100},
	} {
		if got := gcPercent(c.least, c.live); got != c.want {
			t.Errorf("%d of %d bytes in use: GOGC=%d, want %d", c.live, c.least, got, c.want)
		}
	}
}

// TestKeepHeap counts the collections that 40 MiB of garbage take, before and after, and looks at
// what a heap in use does to the setting.
func TestKeepHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	litter := func() uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 40 << 20 / (64 << 10) {
			litterbox = make([]byte, 64<<10)
		}
		runtime.ReadMemStats(&after)
		return uint64(after.NumGC - before.NumGC)
	}
	runtime.GC()
	if n := litter(); n < 3 {
		t.Fatalf("%d collections without KeepHeap: there is nothing to save", n)
	}

	t.Setenv("GOGC", "50")
	KeepHeap(t.Context(), 64<<20)
	if got := gcPercentNow(); got != 100 {
		t.Errorf("GOGC of the environment is overridden: %d", got)
	}
	t.Setenv("GOGC", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	KeepHeap(ctx, 64<<20)
	awaitGCPercent(t, func(percent uint64) bool { return percent > 400 })
	runtime.GC()
	if n := litter(); n > 1 {
		t.Errorf("%d collections with KeepHeap, want one at most", n)
	}
	used := make([]byte, 60<<20)
	awaitGCPercent(t, func(percent uint64) bool { return percent == 100 })
	runtime.KeepAlive(used)
	awaitGCPercent(t, func(percent uint64) bool { return percent > 400 })
	cancel()
	awaitGCPercent(t, func(percent uint64) bool { return percent == 100 })
}

var litterbox []byte

func gcPercentNow() uint64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/gogc:percent"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64()
}

// awaitGCPercent collects garbage until the setting is as it should be.
func awaitGCPercent(t *testing.T, ok func(uint64) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(gcPercentNow()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("GOGC is %d", gcPercentNow())
		}
		runtime.GC()
	}
}
