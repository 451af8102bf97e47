package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

// The log is bounded, since some of its lines are caused by whoever sends reviews:
// logBurst bytes at once, and logRate bytes a second on average, which is less than
// 1 MiB a minute.
const (
	logRate  = 8 << 10
	logBurst = 64 << 10
)

// boundedLog passes lines on while there is room for them, and then says how many it
// did not.
type boundedLog struct {
	to  io.Writer
	now func() time.Time

	mu      sync.Mutex
	room    float64
	last    time.Time
	dropped int
}

func newBoundedLog(to io.Writer) *boundedLog {
	return &boundedLog{to: to, now: time.Now, room: logBurst}
}

// Write implements io.Writer for one line.
func (b *boundedLog) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if !b.last.IsZero() {
		b.room = min(logBurst, b.room+now.Sub(b.last).Seconds()*logRate)
	}
	b.last = now
	reserve := 0.0
	if b.dropped > 0 {
		reserve = logBurst / 16 // come back with more than one line
	}
	if float64(len(line)) > b.room-reserve {
		b.dropped++
		return len(line), nil
	}
	if b.dropped > 0 {
		note := fmt.Appendf(nil, `{"level":"warning","lines":%d,"msg":"log lines left out, there were too many","time":%q}`+"\n", b.dropped, now.Format(time.RFC3339Nano))
		b.dropped = 0
		b.room -= float64(len(note))
		line = bytes.Join([][]byte{note, line}, nil)
	}
	b.room -= float64(len(line))
	if _, err := b.to.Write(line); err != nil {
		return 0, err
	}
	return len(line), nil
}
