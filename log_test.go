package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
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
	if _, err := log.Write(line); err != nil || !strings.Contains(out.String(), "left out") || !strings.HasSuffix(out.String(), string(line)) {
		t.Errorf("%v: after a while it says %q, want how many lines were left out, and the line", err, out.String())
	}
}
