package patches

import (
	"bytes"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// wrote reports whether a client has left a trace of having written a field of the pod spec, which
// the API's own defaulting doesn't: kubectl's annotation last-applied-configuration, or an entry of
// managedFields with the operation Apply
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management). A client that
// leaves none, such as kubectl create or Helm 3, can't be told from the API's default.
//
// path names the fields below the pod spec; after "containers" comes the name of one.
func (o *object) wrote(path ...string) bool {
	last := []byte(path[len(path)-1])
	if !bytes.Contains(o.meta.lastApplied, last) && !bytes.Contains(o.meta.managedFields, last) { // before any allocation
		return false
	}
	return o.traced(append(o.specPath(), path...)...)
}

// specPath returns the fields that lead to the pod spec.
func (o *object) specPath() []string {
	if o.kind == "Pod" {
		return []string{"spec"}
	}
	return []string{"spec", "template", "spec"}
}

// wroteRecord reports whether a client has written our record: the manifest was injected before it
// was applied.
func (o *object) wroteRecord() bool {
	path := []string{"metadata", "annotations", policy.InjectedAnnotation}
	if o.kind != "Pod" {
		path = append([]string{"spec", "template"}, path...)
	}
	return o.traced(path...)
}

func (o *object) traced(path ...string) bool {
	last := []byte(path[len(path)-1])
	if bytes.Contains(o.meta.lastApplied, last) {
		if s, ok := o.lastApplied(); ok && leads(s, path, alwaysFound) {
			return true
		}
	}
	return bytes.Contains(o.meta.managedFields, last) && o.applied(path)
}

// lastAppliedSays reports whether last-applied-configuration has a grace period of so many seconds.
func (o *object) lastAppliedSays(grace int64) bool {
	s, ok := o.lastApplied()
	return ok && leads(s, append(o.specPath(), "terminationGracePeriodSeconds"), func(s *scan.Scanner) bool {
		seconds, set, err := s.Integer()
		return err == nil && set && seconds == grace
	})
}

// lastApplied returns a scanner of the manifest that kubectl has applied last.
func (o *object) lastApplied() (*scan.Scanner, bool) {
	quoted, err := scan.New(o.meta.lastApplied)
	if err != nil {
		return nil, false
	}
	text, err := quoted.Text()
	if err != nil || len(text) == 0 {
		return nil, false
	}
	s, err := scan.New(text)
	return &s, err == nil
}

// leads reports whether path leads to a value, not null, of which found says yes.
func leads(s *scan.Scanner, path []string, found func(*scan.Scanner) bool) bool {
	is := false
	if len(path) == 0 {
		at := s.At(s.Position())
		is = s.Next() != 'n' && found(&at)
		_, err := s.Skip()
		return is && err == nil
	}
	if s.Next() == '[' { // containers, of which the next of path names one
		err := s.Elements(func(int) error {
			named := false
			at := s.At(s.Position())
			if at.Next() == '{' {
				_ = at.Members(nameMember, func(string) error { // an error shows below
					name, err := at.Text()
					named = string(name) == path[0]
					return err
				})
			}
			if named {
				is = leads(s, path[1:], found)
				return nil
			}
			_, err := s.Skip()
			return err
		})
		return is && err == nil
	}
	if s.Next() != '{' {
		_, _ = s.Skip() // an error shows in the caller's next step
		return false
	}
	err := s.Each(func(key []byte) error {
		if string(key) == path[0] {
			is = leads(s, path[1:], found)
			return nil
		}
		_, err := s.Skip()
		return err
	})
	return is && err == nil
}

var (
	nameMember        = []string{"name"}
	managerMembers    = []string{"operation", "fieldsV1", "subresource"}
	alwaysFound       = func(*scan.Scanner) bool { return true }
	operationApply    = []byte("Apply")
	fieldPrefix       = "f:"
	containerKeyStart = `k:{"name":"`
)

// applied reports whether an entry of managedFields with the operation Apply has a field.
func (o *object) applied(path []string) bool {
	s, err := scan.New(o.meta.managedFields)
	if err != nil {
		return false
	}
	fields := make([]string, len(path))
	for i, name := range path {
		fields[i] = fieldPrefix + name
		if i > 0 && path[i-1] == "containers" {
			fields[i] = containerKeyStart + name + `"}`
		}
	}
	found := false
	err = s.Elements(func(int) error {
		apply, start := false, -1
		err := s.Members(managerMembers, func(member string) error {
			switch member {
			case "operation":
				text, err := s.Text()
				apply = bytes.Equal(text, operationApply)
				return err
			case "fieldsV1":
				s.Next()
				start = s.Position()
			}
			_, err := s.Skip()
			return err
		})
		if err == nil && apply && start >= 0 {
			at := s.At(start)
			found = found || leads(&at, fields, alwaysFound)
		}
		return err
	})
	return found && err == nil
}

// graceWritten reports whether somebody wrote the grace period that is set, so that it is not ours
// to change: it is not the API's default, or there is a trace of who wrote it, or it stands in a
// manifest, where nothing has been defaulted.
func (o *object) graceWritten() bool {
	switch {
	case o.pod.grace == nil:
		return false
	case *o.pod.grace != apiGracePeriod || o.offline:
		return true
	}
	return o.wrote("terminationGracePeriodSeconds")
}
