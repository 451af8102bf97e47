package manifest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// names returns the names of files.
func names(files []*File) (names []string) {
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

// write makes a file with one document.
func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("a: 1\n"), 0o666); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoriesAreFoundBehindSymbolicLinks(t *testing.T) {
	dir := t.TempDir()
	link(t, dir, filepath.Join(dir, ".link"))
	write(t, filepath.Join(dir, "a.yaml"))
	link(t, "a.yaml", filepath.Join(dir, "b.yaml"))
	for _, name := range []string{dir, dir + "/", filepath.Join(dir, ".link")} {
		files, err := ReadPaths(t.Context(), []string{name}, nil)
		if want := []string{filepath.Join(name, "a.yaml"), filepath.Join(name, "b.yaml")}; err != nil ||
			!slices.Equal(names(files), want) {
			t.Errorf("%s: %v, %q, want %q", name, err, names(files), want)
		}
	}
}

func TestADirectoryMakesNobodyWaitOrReadElsewhere(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret.yaml"))
	for _, c := range []struct {
		name, file, want string
		make             func(path string)
	}{
		{"a link out of the directory", "a.yaml", "leads out of the directory, or nowhere",
			func(path string) { link(t, filepath.Join(outside, "secret.yaml"), path) }},
		{"a relative link out of the directory", "a.yaml", "leads out of the directory, or nowhere",
			func(path string) { link(t, "../../../../../../etc/passwd", path) }},
		{"a link to nothing", "a.yaml", "leads out of the directory, or nowhere",
			func(path string) { link(t, "nothing.yaml", path) }},
		{"a pipe that nobody writes to", "a.yaml", "is not a regular file", func(path string) {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"a name that would begin a line of its own", "a\n::error::x\x1b[31m.yaml", `a\n::error::x\x1b[31m.yaml:1: `,
			func(path string) {
				if err := os.WriteFile(path, []byte("a: ["), 0o600); err != nil {
					t.Fatal(err)
				}
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "good.yaml"))
			c.make(filepath.Join(dir, c.file))
			_, err := ReadPaths(t.Context(), []string{dir}, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q, want one with %q", err, c.want)
			}
		})
	}
}

func TestALinkOrPipeThatIsNamedIsRead(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "a.yaml"))
	link(t, filepath.Join(outside, "a.yaml"), filepath.Join(dir, "link.yaml"))
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(pipe, []byte("b: 2\n"), 0o600) }()
	files, err := ReadPaths(t.Context(), []string{filepath.Join(dir, "link.yaml"), pipe}, nil)
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// spaces is a reader of blanks without an end.
type spaces struct{ read int }

func (s *spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	s.read += len(b)
	return len(b), nil
}

func TestInputHasABound(t *testing.T) {
	var endless spaces
	_, err := ReadPaths(t.Context(), []string{"-"}, &endless)
	if err == nil || !strings.Contains(err.Error(), "longer than 16 MiB") || endless.read > 2*MaxInput {
		t.Errorf("%d bytes were read, error %v", endless.read, err)
	}

	file := filepath.Join(t.TempDir(), "a.yaml")
	write(t, file) // 5 bytes
	all := reader{room: 10}
	for range 3 {
		all.read(file)
	}
	if len(all.files) != 2 || len(all.failures) != 1 {
		t.Errorf("of 15 bytes in three files, where 10 may be read, %d files were; %v", len(all.files), all.failures)
	}
}

// stuck is a reader that says when it is read, and blocks until the end of the test.
type stuck struct{ began, end chan struct{} }

func (s stuck) Read([]byte) (int, error) {
	close(s.began)
	<-s.end
	return 0, io.EOF
}

func TestAReadThatBlocksEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stdin := stuck{make(chan struct{}), make(chan struct{})}
	defer close(stdin.end)
	go func() {
		<-stdin.began
		cancel()
	}()
	if files, err := ReadPaths(ctx, []string{"-"}, stdin); !errors.Is(err, context.Canceled) || files != nil {
		t.Errorf("%d files, %v", len(files), err)
	}
}
