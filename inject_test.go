package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReadingStandardInputEndsWhenTheCommandIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent, writer := io.Pipe() // that nobody writes to
	defer func() { _ = writer.Close() }()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"evenkeel", "inject", "-"}, silent, &stdout, &stderr); code != exitFailed ||
		stdout.Len() > 0 {
		t.Errorf("exit %d, stdout %q", code, &stdout)
	}
}

func TestACommandEndsWhenItIsCancelledWhateverItDoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	defer close(hang)
	err := interruptible(ctx, func() error {
		cancel()
		<-hang
		return nil
	})
	if err == nil || err.Error() != "interrupted" {
		t.Errorf("error %v", err)
	}
	if err := interruptible(t.Context(), func() error { return errMissing }); !errors.Is(err, errMissing) {
		t.Errorf("error %v, want that of the work", err)
	}
}

// TestColorsAreForTerminalsWhoseUsersWantThem has the master of a pseudo-terminal for a terminal.
func TestColorsAreForTerminalsWhoseUsersWantThem(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for _, c := range []struct {
		name, noColor, term string
		w                   io.Writer
		want                bool
	}{
		{"a terminal gets colors", "", "xterm", terminal, true},
		{"NO_COLOR is respected", "1", "xterm", terminal, false},
		{"NO_COLOR is respected whatever its value", "0", "xterm", terminal, false},
		{"a terminal that can do nothing gets none", "", "dumb", terminal, false},
		{"a file gets none", "", "xterm", file, false},
		{"a buffer gets none", "", "xterm", &bytes.Buffer{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			if got := colored(c.w); got != c.want {
				t.Errorf("colors: %v, want %v", got, c.want)
			}
		})
	}
}
