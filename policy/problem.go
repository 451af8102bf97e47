package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/evenkeel/evenkeel/internal/words"
)

// ProblemCode is the kind of a problem: a closed set, so that it can be a metric
// label.
type ProblemCode string

// The values of ProblemCode.
const (
	ProblemKey       ProblemCode = "unknown-key"    // no such annotation or label
	ProblemValue     ProblemCode = "unusable-value" // a value that is not allowed
	ProblemClamped   ProblemCode = "clamped-value"  // a value above the operator's bound
	ProblemMisplaced ProblemCode = "misplaced-key"  // a label used as an annotation, or the like
	ProblemTarget    ProblemCode = "unknown-target" // names a container or port that does not exist
	ProblemRestored  ProblemCode = "restored"       // a default taken away by hand while its setting asks for it
)

// Problem is something in labels, annotations or flags that could not be used as
// written. The default, or the value from a source of lower precedence, stays in
// force.
type Problem struct {
	Code   ProblemCode
	Source Source
	// Key is the whole label or annotation key, or the flag.
	Key string
	// Value is as written; String shortens it.
	Value string
	// Reason says what was wrong, in words that follow the value.
	Reason string
	// Allowed says what could stand there, or where the key belongs.
	Allowed string
	// Nearest is the existing key that resembles Key most, or "".
	Nearest string
}

// String returns one line that names source, key, value, what is allowed and the
// nearest existing key. It is at most 256 bytes long, since kube-apiserver cuts
// longer warnings (k8s.io/apiserver/pkg/endpoints/filters/warning.go), and
// contains no control characters.
func (p Problem) String() string {
	key, value := words.Shorten(p.Key, 80), strconv.QuoteToASCII(words.Shorten(p.Value, 40))
	var text string
	switch p.Code {
	case ProblemKey:
		text = fmt.Sprintf("%s %s is not known", p.Source, key)
		if p.Nearest != "" {
			text += "; did you mean " + p.Nearest + "?"
		} else {
			text += "; known: " + strings.Join(names(), ", ")
		}
	case ProblemMisplaced:
		text = fmt.Sprintf("%s %s=%s has no effect here; it belongs %s", p.Source, key, value, p.Allowed)
	case ProblemRestored:
		text = fmt.Sprintf("what the setting %s adds to the pod template was taken away and is put back; to remove it, "+
			"set the annotation to off", key)
	default:
		text = fmt.Sprintf("%s %s=%s %s; allowed: %s", p.Source, key, value, p.Reason, p.Allowed)
	}
	return words.Shorten(strings.Map(visible, text), 256)
}

// visible replaces what is not to be printed, control and direction characters
// for example: names that come from the object are not validated yet when it is
// reviewed.
func visible(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return unicode.ReplacementChar
}

// nearest returns the known key most like key, or "" when none is close: at most
// a third of the letters differ, or key is a part of its name.
func nearest(key string) string {
	name := strings.ToLower(strings.TrimPrefix(key, Prefix))
	known := append(names(), strings.TrimPrefix(InjectLabel, Prefix))
	for _, candidate := range known {
		if len(name) >= 4 && strings.Contains(candidate, name) {
			return Prefix + candidate
		}
	}
	if near := words.Nearest(name, known, len(name)/3+1); near != "" {
		return Prefix + near
	}
	return ""
}

// names returns the names of all settings in table order.
func names() []string {
	all := make([]string, len(settings))
	for i := range settings {
		all[i] = settings[i].Name
	}
	return all
}
