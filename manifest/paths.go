package manifest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evenkeel/evenkeel/internal/words"
)

// MaxInput is how much input is read at most, all files together, in bytes.
const MaxInput = 16 << 20

// extensions are those of the files that are read in a directory.
var extensions = []string{".yaml", ".yml", ".json"}

// ReadPaths reads files, directories with everything below them, and for "-" stdin: at most MaxInput
// bytes. It returns when ctx ends, even while a read blocks. The error joins what is wrong with each
// file that can't be used.
func ReadPaths(ctx context.Context, names []string, stdin io.Reader) ([]*File, error) {
	type outcome struct {
		files []*File
		err   error
	}
	done := make(chan outcome, 1)
	go func() { // a read from a terminal or a pipe can't be interrupted
		r := reader{stdin: stdin, room: MaxInput}
		for _, name := range names {
			if ctx.Err() != nil {
				break
			}
			r.read(name)
		}
		done <- outcome{r.files, errors.Join(r.failures...)}
	}()
	select {
	case o := <-done:
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read manifests: %w", ctx.Err())
		}
		return o.files, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("read manifests: %w", ctx.Err())
	}
}

// Without returns the files that no glob matches: neither their path, nor their name, nor that of a directory
// above them.
func Without(files []*File, globs []string) ([]*File, error) {
	for _, glob := range globs {
		if _, err := filepath.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("%q is not a pattern; allowed: names with *, ? and [a-z]", glob)
		}
	}
	return slices.DeleteFunc(slices.Clone(files), func(f *File) bool {
		return slices.ContainsFunc(globs, func(glob string) bool { return matches(f.Name, glob) })
	}), nil
}

// matches reports whether a glob matches a path, a directory above it, or the name of either.
func matches(path, glob string) bool {
	glob = filepath.Clean(glob)
	for path = filepath.Clean(path); path != "." && path != string(filepath.Separator); path = filepath.Dir(path) {
		whole, _ := filepath.Match(glob, path) // the pattern was tried
		name, _ := filepath.Match(glob, filepath.Base(path))
		if whole || name {
			return true
		}
	}
	return false
}

// reader reads manifests.
type reader struct {
	stdin    io.Reader
	room     int // how many bytes may still be read
	files    []*File
	failures []error
}

// fail notes an error, in one line whatever the name of the file.
func (r *reader) fail(format string, args ...any) {
	r.failures = append(r.failures, errors.New(words.Printable(fmt.Sprintf(format, args...))))
}

// read reads what one name stands for.
func (r *reader) read(name string) {
	switch {
	case name == "-":
		r.add("stdin", r.stdin)
		return
	case strings.Contains(name, "://"):
		r.fail("%s: URLs are not read; use curl -fsSL URL | evenkeel inject -", name)
		return
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.fail("%v", missing(name))
		return
	case err != nil:
		r.fail("find manifests: %v", err)
		return
	}
	if info.IsDir() {
		r.directory(name)
		return
	}
	file, err := os.Open(name) // a pipe too, as in <(helm template)
	if err != nil {
		r.fail("read manifest: %v", err)
		return
	}
	r.add(name, file)
	_ = file.Close() // was read
}

// missing is the error that there is no file of that name, with what stands beside it.
func missing(name string) error {
	var beside []string
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("file or directory %q does not exist", name)
	}
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") || slices.Contains(extensions, filepath.Ext(entry.Name())) {
			beside = append(beside, filepath.Join(filepath.Dir(name), entry.Name()))
		}
	}
	return words.NotFound("file or directory", filepath.Clean(name), beside)
}

// directory reads the manifests in and below a directory, sorted. It reads regular files only, and
// follows links only to what is in the directory: whoever writes files there must not make evenkeel
// wait, or print what is elsewhere.
func (r *reader) directory(name string) {
	root, err := os.OpenRoot(name) // the name itself may be a link
	if err != nil {
		r.fail("find manifests: %v", err)
		return
	}
	defer func() { _ = root.Close() }()
	found := false
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != "." && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !slices.Contains(extensions, filepath.Ext(path)):
			return nil
		}
		whole := filepath.Join(name, filepath.FromSlash(path))
		info, err := root.Stat(path)
		switch {
		case err != nil && entry.Type()&fs.ModeSymlink != 0:
			r.fail("%s: is a link that leads out of the directory, or nowhere; name the file itself to read it", whole)
			return nil
		case err != nil:
			return err
		case info.IsDir():
			return nil
		case !info.Mode().IsRegular():
			r.fail("%s: is not a regular file; name it itself to read it", whole)
			return nil
		}
		found = true
		file, err := root.Open(path)
		if err != nil {
			r.fail("read manifest: %v", err)
			return nil
		}
		r.add(whole, file)
		return file.Close()
	})
	switch {
	case err != nil:
		r.fail("find manifests: %v", err)
	case !found && len(r.failures) == 0:
		r.fail("%s: the directory holds no *.yaml, *.yml or *.json", name)
	}
}

// add reads one file.
func (r *reader) add(name string, from io.Reader) {
	if r.room < 0 {
		return // told already
	}
	text, err := io.ReadAll(io.LimitReader(from, int64(r.room)+1))
	r.room -= len(text)
	switch {
	case err != nil:
		r.fail("read %s: %v", name, err)
		return
	case r.room < 0:
		r.fail("%s: with this file the input is longer than %d MiB, the most that is read at once; give fewer files",
			name, MaxInput>>20)
		return
	}
	file, err := Read(name, string(text))
	if err != nil {
		r.failures = append(r.failures, err)
		return
	}
	r.files = append(r.files, file)
}
