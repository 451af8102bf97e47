package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

func TestTheLogStaysBelowOneMebibyteAMinute(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	log := newBoundedLog(&out)
	log.now = func() time.Time { return now }
	line := []byte(strings.Repeat("x", 299) + "\n")
	for range 60 * 500 {
		if n, err := log.Write(line); err != nil || n < len(line) {
			t.Fatal(n, err)
		}
		now = now.Add(2 * time.Millisecond)
	}
	if out.Len() > 1<<20 || out.Len() < 100<<10 {
		t.Errorf("%d bytes in a minute, want some, and less than 1 MiB", out.Len())
	}
	out.Reset()
	now = now.Add(time.Minute)
	if _, err := log.Write(line); err != nil || !strings.Contains(out.String(), "left out") ||
		!strings.HasSuffix(out.String(), string(line)) {
		t.Errorf("%v: after a while it says %q, want how many lines were left out, and the line", err, out.String())
	}
}

func TestWhatClientGoLogsIsJSONToo(t *testing.T) {
	t.Cleanup(klog.ClearLogger)
	var out bytes.Buffer
	NewLog(&out, logrus.InfoLevel)
	klog.Background().Error(errors.New("connection refused"), "watch ended", "resource", "nodes")
	klog.Infof("retry after %d seconds", 3)
	klog.V(5).Info("not shown")
	decoder := json.NewDecoder(&out)
	for _, want := range []map[string]any{
		{"level": "warning", "msg": "watch ended", "error": "connection refused", "resource": "nodes", "from": "client-go"},
		{"level": "info", "msg": "retry after 3 seconds", "from": "client-go"},
	} {
		got := map[string]any{}
		if err := decoder.Decode(&got); err != nil {
			t.Fatal(err)
		}
		delete(got, "time")
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
	}
	if decoder.More() {
		t.Error("more lines than messages")
	}
}
