package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	"k8s.io/klog/v2"
)

// The log is bounded, since whoever sends reviews causes some of its lines: logBurst bytes at
// once, and logRate bytes a second on average, which is less than 1 MiB a minute.
const (
	logRate  = 8 << 10
	logBurst = 64 << 10
)

// NewLog returns a log in JSON that is bounded, unless level is debug. client-go's messages,
// which it writes with klog, go there too. Call it before anything uses client-go.
func NewLog(to io.Writer, level logrus.Level) *logrus.Entry {
	if level < logrus.DebugLevel {
		to = newBoundedLog(to)
	}
	logger := logrus.New()
	logger.SetLevel(level)
	logger.SetOutput(to)
	logger.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	log := logrus.NewEntry(logger)
	klog.SetLogger(funcr.NewJSON(func(line string) { writeKlog(log, line) }, funcr.Options{}))
	return log
}

// writeKlog writes a line of klog, which is a JSON object, to log. A line with an error is a
// warning: client-go tries again by itself.
func writeKlog(log *logrus.Entry, line string) {
	fields := logrus.Fields{}
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		fields = logrus.Fields{"msg": line}
	}
	message := fmt.Sprint(fields["msg"])
	for _, name := range []string{"msg", "level", "logger"} { // logrus sets the level, logger is empty
		delete(fields, name)
	}
	level := logrus.InfoLevel
	if _, failed := fields["error"]; failed {
		level = logrus.WarnLevel
	}
	log.WithFields(fields).WithField("from", "client-go").Log(level, message)
}

// boundedLog passes lines on while there is room for them. Then it says how many it left out.
type boundedLog struct {
	to  io.Writer
	now func() time.Time

	mu      sync.Mutex
	room    *rate.Limiter // in bytes
	dropped int
}

func newBoundedLog(to io.Writer) *boundedLog {
	return &boundedLog{to: to, now: time.Now, room: rate.NewLimiter(logRate, logBurst)}
}

// Write implements io.Writer for one line.
func (b *boundedLog) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, needed, text := b.now(), len(line), line
	if b.dropped > 0 {
		needed += logBurst / 16 // come back with more than one line
		text = bytes.Join([][]byte{fmt.Appendf(nil,
			`{"level":"warning","lines":%d,"msg":"log lines left out, there were too many","time":%q}`+"\n",
			b.dropped, now.Format(time.RFC3339Nano)), line}, nil)
	}
	if b.room.TokensAt(now) < float64(needed) || !b.room.AllowN(now, len(text)) {
		b.dropped++
		return len(line), nil
	}
	b.dropped = 0
	if _, err := b.to.Write(text); err != nil {
		return 0, err
	}
	return len(line), nil
}
