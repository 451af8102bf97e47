package patches

import (
	"bytes"
	"strconv"
	"time"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// DefaultNodeLoss is the name of the default that replaces the pods of a lost node sooner than
// Kubernetes does by itself.
const DefaultNodeLoss = policy.SettingNodeLoss

// lostTaints are the taints that the node controller puts on a node that is lost, with the effect
// NoExecute (https://kubernetes.io/docs/reference/labels-annotations-taints/).
var lostTaints = [...]string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}

// addNodeLoss tolerates a lost node for as long as the setting says. Without tolerations of its
// own, a pod gets some of 300 s (plugin/pkg/admission/defaulttolerationseconds in Kubernetes).
//
// It writes the whole list or nothing: the API keeps tolerations as one value, so that a manifest
// with some of its own would take ours out each time that it is sent again.
//
// setting | kind                    | their tolerations  | outcome
// off     | any                     | any                | none (off), and no word where nobody asked
// set     | Pod                     | any                | none (pod-itself)
// set     | DaemonSet               | any                | none (daemonset)
// set     | StatefulSet, not asked  | any                | none (statefulset)
// set     | any other               | for a lost node    | none (user-set)
// set     | any other               | for anything else  | none (own-tolerations)
// set     | any other               | none               | two tolerations
func addNodeLoss(in *input, out *output) {
	at := in.pod().tolerationsSlot()
	if skip := in.nodeLossSkip(); skip != SkipNone {
		asked := in.policy.NodeLoss > 0 || in.policy.From(DefaultNodeLoss) != policy.SourceFlag
		if asked || at.standing != nil {
			out.skip(DefaultNodeLoss, "", skip, at.standing)
		}
		if at.standing != nil && at.empty {
			out.open("replace", at.base, at.leaf)
			out.write("[]")
			out.close()
			return
		}
		out.takeBack(&at)
		return
	}
	seconds := strconv.FormatInt(int64(in.policy.NodeLoss/time.Second), 10)
	out.begin(&at)
	out.patch = appendTolerations(out.patch, seconds)
	out.fill(&at)
	out.note("", DefaultNodeLoss, seconds)
	out.applied(DefaultNodeLoss, "", "replaced "+seconds+" s after the node is lost", &at)
}

// nodeLossSkip returns why there are no tolerations of ours, or SkipNone.
func (in *input) nodeLossSkip() Skip {
	tolerations := in.pod().tolerations
	switch {
	case in.policy.NodeLoss == 0:
		return SkipOff
	case in.object.kind == "Pod":
		return SkipPodItself
	case in.daemonSet():
		return SkipDaemonSet
	case in.object.kind == "StatefulSet" && !in.policy.Asked(DefaultNodeLoss):
		return SkipStatefulSet
	case tolerations == nil || isEmptyList(tolerations):
		return SkipNone
	case tolerateLoss(tolerations):
		return SkipUserSet
	}
	return SkipOwnTolerations
}

// appendTolerations appends the list that tolerates a lost node for some seconds.
func appendTolerations(b []byte, seconds string) []byte {
	for i, taint := range lostTaints {
		b = append(b, "[,"[i])
		b = append(append(b, `{"key":"`...), taint...)
		b = append(append(b, `","operator":"Exists","effect":"NoExecute","tolerationSeconds":`...), seconds...)
		b = append(b, '}')
	}
	return append(b, ']')
}

// splitTolerations takes the tolerations out of o that the record says are ours, unless somebody
// has written them since.
func (o *object) splitTolerations(seconds string) {
	p := &o.pod
	var room [256]byte
	if p.tolerations == nil || !same(p.tolerations, appendTolerations(room[:0], seconds)) || o.wrote("tolerations") {
		return
	}
	p.ours.tolerations, p.tolerations = p.tolerations, nil
}

// isEmptyList reports whether raw is a list without elements; what is not set is no list.
func isEmptyList(raw []byte) bool {
	return len(raw) > 1 && raw[0] == '[' && len(bytes.TrimSpace(raw[1:len(raw)-1])) == 0
}

var tolerationMembers = []string{"key", "effect"}

// tolerateLoss reports whether one of the raw tolerations is about a taint of a lost node, by the
// rule of Kubernetes' own plugin: no key means every taint, no effect every effect.
func tolerateLoss(tolerations []byte) bool {
	s, err := scan.New(tolerations)
	if err != nil {
		return false
	}
	found := false
	err = s.Elements(func(int) error {
		var key, effect string
		err := s.Members(tolerationMembers, func(name string) error {
			text, err := s.Text()
			if name == "key" {
				key = string(text)
			} else {
				effect = string(text)
			}
			return err
		})
		about := key == "" || key == lostTaints[0] || key == lostTaints[1]
		found = found || about && (effect == "" || effect == "NoExecute")
		return err
	})
	return found && err == nil
}
