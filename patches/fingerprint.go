package patches

import (
	"slices"

	"github.com/evenkeel/evenkeel/internal/scan"
)

// Fingerprint returns 64 bits that stand for a JSON value: the same for the same value, however
// its members are ordered and spaced, and other ones for any other value but by a chance of 2^-64.
// Members that are null count as absent, and so do those that the API adds to a probe by itself
// (SetDefaults_Probe and SetDefaults_HTTPGetAction in k8s.io/kubernetes/pkg/apis/core/v1/defaults.go),
// since a value is compared before and after that.
//
// It tells what evenkeel added from what somebody wrote, and one revision of a pod template from
// another. It guards nothing: who makes up two values with one fingerprint fools their own workload.
func Fingerprint(value []byte) (uint64, error) {
	s, err := scan.New(value)
	if err != nil {
		return 0, err
	}
	print, err := printer{&s}.value()
	if err != nil {
		return 0, err
	}
	return print, s.End()
}

// memberPrints calls visit with each member of a raw object that counts, and with the fingerprint of
// an object that has this member alone.
func memberPrints(object []byte, visit func(name []byte, print uint64)) error {
	s, err := scan.New(object)
	if err != nil {
		return err
	}
	p := printer{&s}
	return p.Each(func(key []byte) error {
		value, counts, err := p.member(key)
		if counts {
			visit(key, mix(printObject)+mix(printBytes(printText, key)^mix(value)))
		}
		return err
	})
}

// FingerprintTemplate is Fingerprint for the pod template of a Deployment, of one of its ReplicaSets
// or of a ControllerRevision: without the label pod-template-hash, which is in the second alone, and
// the directive "$patch", which is in the third.
func FingerprintTemplate(template []byte) (uint64, error) {
	s, err := scan.New(template)
	if err != nil {
		return 0, err
	}
	p := printer{&s}
	print, _, err := p.object(func(key []byte) (uint64, bool, error) {
		switch string(key) {
		case "$patch":
			return p.nothing()
		case "metadata":
			return p.parent(func(key []byte) (uint64, bool, error) {
				if string(key) != "labels" {
					return p.member(key)
				}
				return p.parent(p.without(podTemplateHash))
			})
		}
		return p.member(key)
	})
	if err != nil {
		return 0, err
	}
	return print, s.End()
}

// printer computes fingerprints of what its scanner reads.
type printer struct{ *scan.Scanner }

// The kinds of values, so that "" and [] and {} differ.
const (
	printNull uint64 = iota
	printScalar
	printText
	printArray
	printObject
)

// value returns the fingerprint of any value, printNull for null.
func (p printer) value() (uint64, error) {
	switch p.Next() {
	case '{':
		print, _, err := p.object(p.member)
		return print, err
	case '[':
		print, _, err := p.list(nil)
		return print, err
	case '"':
		text, err := p.String()
		return printBytes(printText, text), err
	}
	raw, err := p.Skip()
	if string(raw) == "null" {
		return printNull, err
	}
	return printBytes(printScalar, raw), err
}

// visitor returns the fingerprint of the value of a member, and whether it counts.
type visitor func(key []byte) (print uint64, counts bool, err error)

// object returns the fingerprint of an object and how many members count.
func (p printer) object(visit visitor) (print uint64, members int, err error) {
	print = mix(printObject)
	err = p.Each(func(key []byte) error {
		name := printBytes(printText, key) // before key is read over
		value, counts, err := visit(key)
		if counts {
			print += mix(name ^ mix(value)) // whatever the order
			members++
		}
		return err
	})
	return print, members, err
}

// list returns the fingerprint of an array without the elements of some indexes, which are sorted.
func (p printer) list(without []int) (uint64, bool, error) {
	print := mix(printArray)
	err := p.Elements(func(i int) error {
		if _, is := slices.BinarySearch(without, i); is {
			_, err := p.Skip()
			return err
		}
		element, err := p.value()
		print = mix(print ^ element)
		return err
	})
	return print, true, err
}

// member is the visitor that looks at everything.
func (p printer) member(key []byte) (uint64, bool, error) {
	before := p.Position()
	print, err := p.value()
	if err != nil || print == printNull {
		return 0, false, err
	}
	switch string(key) {
	case "successThreshold", "scheme", "path", "service":
		at := p.At(before)
		raw, err := at.Skip()
		for _, d := range [...]struct{ key, value string }{
			{"successThreshold", `1`}, {"scheme", `"HTTP"`}, {"path", `"/"`}, {"service", `""`},
		} {
			if string(key) == d.key && string(raw) == d.value {
				return 0, false, err
			}
		}
	}
	return print, true, nil
}

// nothing passes over a value.
func (p printer) nothing() (uint64, bool, error) {
	_, err := p.Skip()
	return 0, false, err
}

// without is the visitor that passes over members of these names.
func (p printer) without(names ...string) visitor {
	return func(key []byte) (uint64, bool, error) {
		for _, name := range names {
			if string(key) == name {
				return p.nothing()
			}
		}
		return p.member(key)
	}
}

// parent returns the fingerprint of an object that means nothing where it is empty, as metadata,
// labels, annotations, affinity and lifecycle do. Anything else is read as it is.
func (p printer) parent(visit visitor) (uint64, bool, error) {
	if p.Next() != '{' {
		print, err := p.value()
		return print, print != printNull, err
	}
	print, members, err := p.object(visit)
	return print, members > 0, err
}

// printBytes is FNV-1a, begun with the kind of the value, and mixed.
func printBytes(kind uint64, b []byte) uint64 {
	h := 14695981039346656037 ^ kind
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return mix(h)
}

// mix spreads each bit over all others (the finaliser of SplitMix64).
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
