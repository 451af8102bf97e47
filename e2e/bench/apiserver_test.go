package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryContestantAddsTheSameInTheAPIServer goes through all that make bench does in the API
// server, with few Pods: each is compared, and evenkeel's reviews are counted.
func TestEveryContestantAddsTheSameInTheAPIServer(t *testing.T) {
	var webhooks []*contestant
	for _, c := range []*contestant{{name: constantPatch}, {name: stockKubewebhook}, {name: "by hand", foreign: true}} {
		handler := c.name
		if c.foreign {
			handler = constantPatch
		}
		server, listener, err := newServer(handler)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.ServeTLS(listener, "", "") }()
		t.Cleanup(func() { _ = server.Close() })
		c.url = "https://" + listener.Addr().String() + "/mutate?timeout=10s"
		webhooks = append(webhooks, c)
	}
	s, err := startServers(t.Context(), os.Stderr, webhooks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	atOnce := []int{1, 4}
	if err := s.measureCreates(t.Context(), 1, 8, atOnce); err != nil {
		t.Fatal(err)
	}
	if err := s.measureRollouts(t.Context(), 1, 1); err != nil {
		t.Fatal(err)
	}

	t.Run("one that adds nothing is refused", func(t *testing.T) {
		lazy := *s.sides[0]
		lazy.want = s.sides[1].want
		if _, err := s.round(t.Context(), &lazy, 1, 1); err == nil {
			t.Error("a Pod without defaults passed for one with them")
		}
		lazy.name = threePolicies
		if _, err := s.rollouts(t.Context(), &lazy, 1); err == nil {
			t.Error("a rollout without defaults passed for one with them")
		}
	})
	t.Run("the second of two with one Service is called by its URL", func(t *testing.T) {
		for _, side := range s.sides {
			if want := side.name == "by hand"; (side.remark == "by its URL") != want {
				t.Errorf("remark on %s is %q", side.name, side.remark)
			}
		}
	})
	t.Run("the report has every contestant and plots that are XML", func(t *testing.T) {
		r := &report{command: "make bench", machine: "here", plots: map[string]string{}}
		r.creates(s, 1, 8, atOnce)
		r.rollouts(s, 1, 1)
		dir := t.TempDir()
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "speed.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range s.sides {
			if !strings.Contains(string(text), "| "+side.name) {
				t.Errorf("the report doesn't name %s", side.name)
			}
		}
		for name := range r.plots {
			plot, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			decoder := xml.NewDecoder(strings.NewReader(string(plot)))
			for err == nil {
				_, err = decoder.Token()
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
