package list

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestListsAreReadItemByItem(t *testing.T) {
	l := Listing{Resource: Resource{"apps/v1", "Deployment", "deployments", Apps}}
	for name, c := range map[string]struct {
		list, next string
		want       []string
	}{
		"items get the kind that the list leaves out": {`{"kind":"DeploymentList","apiVersion":"apps/v1",` +
			`"metadata":{"continue":"more"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`,
			"more", []string{`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"}}`,
				`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"b"}}`}},
		"items with a kind keep it": {`{"items":[{"kind":"X","metadata":{}}]}`, "",
			[]string{`{"kind":"X","metadata":{}}`}},
		"no items":                      {`{"metadata":{},"items":null}`, "", nil},
		"what else there is is skipped": {`{"metadata":{"remainingItemCount":3},"other":{"items":[1]},"items":[]}`, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			next, _, err := l.items(strings.NewReader(c.list),
				func(raw []byte) error { got = append(got, string(raw)); return nil })
			if err != nil || next != c.next {
				t.Errorf("next %q, error %v", next, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("items (-want +got):\n%s", diff)
			}
		})
	}
	for name, list := range map[string]string{"cut off": `{"items":[{"metadata":{}}`, "no list": `[]`, "empty": ``,
		"items that are none": `{"items":{}}`} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := l.items(strings.NewReader(list), func([]byte) error { return nil }); err == nil {
				t.Error("read without an error")
			}
		})
	}
	stop := errors.New("stop")
	if _, _, err := l.items(strings.NewReader(`{"items":[{},{}]}`), func([]byte) error { return stop }); !errors.Is(err,
		stop) {
		t.Errorf("error %v, want that of the visitor", err)
	}
}
