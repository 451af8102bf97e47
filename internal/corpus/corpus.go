// Package corpus finds the manifests that tests run over: our own, which are always there, and
// those of other projects, which are not part of the repository.
package corpus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Files returns the manifests of testdata/corpus and, in addition, those below the directory that
// the environment variable CORPUS names, or below ../shared/corpus beside the repository where that
// exists. It returns an error rather than no files, and where CORPUS names no directory.
func Files() ([]string, error) {
	root, err := root()
	if err != nil {
		return nil, fmt.Errorf("find corpus: %w", err)
	}
	files, err := Below(filepath.Join(root, "testdata", "corpus"))
	if err != nil {
		return nil, err
	}
	outside, named := os.LookupEnv("CORPUS")
	if !named {
		outside = filepath.Join(root, "..", "shared", "corpus")
		if _, err := os.Stat(outside); errors.Is(err, fs.ErrNotExist) {
			return files, nil
		}
	}
	more, err := Below(outside)
	return append(files, more...), err
}

// Below returns the manifests in a directory and its subdirectories, at least one, in the order of
// their names.
func Below(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			files = append(files, path)
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = errors.New("no manifests")
	}
	if err != nil {
		return nil, fmt.Errorf("read corpus in %s: %w", dir, err)
	}
	return files, nil
}

// root returns the directory of the repository: the nearest one above the working directory whose
// go.mod is that of the main module.
func root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		text, failed := os.ReadFile(filepath.Join(dir, "go.mod"))
		if failed == nil && strings.HasPrefix(string(text), "module github.com/evenkeel/evenkeel\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("the working directory is not in the repository")
		}
	}
	return "", err
}
