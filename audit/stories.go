package audit

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/surge"
)

// Story is what there is to know about a code, in whole sentences.
type Story struct {
	Code string
	// Means has one entry for each part of evenkeel that uses the code.
	Means []Meaning
	// Why says where the rule comes from, Do what its reader can do about it.
	Why, Do string
}

// Meaning is what a code says in one part of evenkeel.
type Meaning struct {
	// Part is one of the constants below.
	Part, Text string
	// Warn is set where the author of the workload is told without asking.
	Warn bool
}

// The values of Meaning.Part.
const (
	PartDefault = "why a default was not added"
	PartBudget  = "which budget a workload gets"
	PartDrain   = "whether a drain waits"
	PartFinding = "what audit finds"
)

// codesPage is where the same stories stand, a section for each.
const codesPage = "https://github.com/evenkeel/evenkeel/blob/main/docs/reference/codes.md"

// Link returns the address of the code's section in the documentation.
func Link(code string) string { return codesPage + "#" + code }

// Stories returns the story of every code, in the order of the tables that have them.
func Stories() []Story {
	var all []Story
	add := func(code, part, text, do string, warn bool) {
		i := slices.IndexFunc(all, func(s Story) bool { return s.Code == code })
		if i < 0 {
			i = len(all)
			all = append(all, Story{Code: code})
			if k := slices.IndexFunc(reading[:], func(r lesson) bool { return r.code == code }); k >= 0 {
				all[i].Why, all[i].Do = reading[k].why, reading[k].do
			}
		}
		s := &all[i]
		s.Means = append(s.Means, Meaning{Part: part, Text: text, Warn: warn})
		if do != "" {
			s.Do = do
		}
	}
	for _, r := range patches.Reasons() {
		add(string(r.Code), PartDefault, r.Text, "", r.Warn)
	}
	for _, r := range pdb.Reasons() {
		add(string(r.Code), PartBudget, r.Text, "", r.Warn)
	}
	for _, r := range surge.Reasons() {
		add(string(r.Code), PartDrain, r.Text, "", r.Event)
	}
	for _, e := range explanations {
		add(string(e.Code), PartFinding, e.Text, e.Advice, false)
	}
	return all
}

// Tell returns the story of a code. The error names the nearest code, or how to ask for a workload.
func Tell(code string) ([]byte, error) {
	var known []string
	for _, s := range Stories() {
		if s.Code == code {
			return s.text(), nil
		}
		known = append(known, s.Code)
	}
	if near := words.Nearest(code, known, min(words.Slips, len(code)/3)); near != "" {
		return nil, fmt.Errorf("%q is not a code; did you mean %s?", code, near)
	}
	return nil, fmt.Errorf("%q is neither a code nor a workload; name a workload as KIND/NAME, as in deploy/web", code)
}

func (s *Story) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n\n", s.Code)
	var rows [][]words.Cell
	for _, m := range s.Means {
		rows = append(rows, words.Cells("  "+m.Part+":", m.Text))
	}
	words.Table(&b, false, rows)
	fmt.Fprintf(&b, "\nWhy: %s\nWhat to do: %s\n\n%s\n", s.Why, s.Do, Link(s.Code))
	return b.Bytes()
}

// lesson is what the tables of codes don't say: why, and what to do. Codes of findings have their
// advice in explanations.
type lesson struct{ code, why, do string }

// reading is the table of lessons. It never changes.
var reading = [...]lesson{
	{"opted-out", "A team must be able to leave without asking whoever runs the cluster.",
		"Remove the label to opt in. To keep the other defaults, switch off a single one by its annotation instead."},
	{"off", "Each default has its own switch, for a pod template, a workload, a Namespace, or all.",
		"Run evenkeel explain KIND/NAME to see where the value comes from. Another value there switches it on."},
	{"user-set", "evenkeel never changes what somebody wrote. Half an opinion, such as any podAntiAffinity, counts as " +
		"one.",
		"Remove the field from the manifest to get the default, or keep your own."},
	{"unchanged-template", "A new pod template restarts all pods, and an update of replicas or labels must not do that.",
		"Run kubectl rollout restart when a restart is welcome, or wait for the next change of the template."},
	{"other-operation", "A running pod can't get these fields, and a deletion needs none.", "Nothing has to be done."},
	{"other-kind", "evenkeel changes Deployments, StatefulSets and pods. Other templates get theirs by way of their pods.",
		"Nothing has to be done: look at the pods of the object with evenkeel explain pod/NAME."},
	{"owned-template", "An operator compares the template with its own, and would put it back for ever.",
		"Set the fields in the owner, such as a custom resource. Its new pods get what is safe on a pod."},
	{"runs-to-completion", "Nobody sends requests to such pods, and spreading or a longer stop would only slow them down.",
		"Nothing has to be done."},
	{"scheduling-group", "Such pods start together where their scheduler finds room for all of them (KEP-4671).",
		"Nothing has to be done."},
	{"mirror-pod", "The kubelet rejects a mirror pod that differs from its file on the node.",
		"Change the static pod's file on the node."},
	{"daemonset", "A DaemonSet has one pod on each node, so anti-affinity could only keep it off one.",
		"Set evenkeel.dev/pre-stop-sleep or evenkeel.dev/readiness-probe on the DaemonSet's pod template to get that one."},
	{"no-labels", "podAntiAffinity tells replicas by labels. An empty selector matches every pod of the namespace.",
		"Give the pod a label that its replicas share."},
	{"no-selector", "Anti-affinity and budgets tell the workload's pods by its selector.",
		"Set spec.selector, or the labels of the pod template that Kubernetes makes it from."},
	{"selector-too-large", "etcd stores 1.5 MiB of an object, and anti-affinity repeats the selector for each " +
		"topology key.",
		"Select by one or two labels."},
	{"not-selected", "The annotation says which containers serve; the others are left alone.",
		"Add the container to the annotation, or remove the annotation."},
	{"no-port", "A worker without a port has no endpoint to leave and nothing to probe. A wrong probe would be an outage.",
		"Declare the port in containerPort, point a Service at it, or set evenkeel.dev/readiness-probe=tcp:PORT."},
	{"side-port", "A metrics or health port may be open long before the main one, and may stay open when that fails.",
		"Declare the main port, or set evenkeel.dev/readiness-probe=tcp:PORT."},
	{"ambiguous-port", "A probe of the wrong port keeps a healthy pod out of its Service, so evenkeel does not guess " +
		"among several.",
		"Set evenkeel.dev/readiness-probe=tcp:PORT on the workload, or name the main port http."},
	{"unknown-port", "A probe of a port that no container opens would never succeed.",
		"Correct the name or number in the setting readiness-probe, or declare the port in one container."},
	{"service-elsewhere", "Where Services select the pods, they show which ports serve. This container's is not among " +
		"them.",
		"Set evenkeel.dev/readiness-probe=tcp:PORT if the container serves all the same."},
	{"ends-first", "With the strategy Recreate, a probe that never succeeds leaves no old pod to go on serving.",
		"Point a Service at the port, or set evenkeel.dev/readiness-probe=tcp:PORT."},
	{"peers-first", "Pods that wait for each other before they open a port would wait for ever, since DNS has only " +
		"ready ones.",
		"Set publishNotReadyAddresses: true on the governing Service, or evenkeel.dev/readiness-probe=auto on the " +
			"StatefulSet."},
	{"untouched-template", "Pods of one workload must behave alike. One with a probe would be treated unlike the others.",
		"Run kubectl rollout restart on the workload: then the template gets the probe, and all pods have it."},
	{"probe-never-succeeds", "A guess by a declared port can be wrong, and then every rollout stops. evenkeel notes " +
		"that and guesses no more.",
		""},
	{"reset-again", "An operator that compares whole templates makes the workload anew each time. evenkeel must not " +
		"fight it.", ""},
	{"no-native-sleep", "preStop.sleep came with KEP-3960: off in 1.29, on from 1.30. An exec sleep needs a command " +
		"in the image.",
		"Upgrade the nodes, or set --allow-exec-sleep if your images have a sleep command."},
	{"short-grace-period", "The sleep is part of the grace period. Without enough of it, the container is killed in " +
		"its sleep.",
		"Raise terminationGracePeriodSeconds, set evenkeel.dev/grace-period=raise, or ask for a shorter sleep."},
	{"own-tolerations", "The list has no merge key, so any second writer replaces it whole.",
		"Add tolerations for node.kubernetes.io/not-ready and unreachable with your tolerationSeconds to the list."},
	{"statefulset", "A lost node may still run the pod. Two pods of one name could write to the same volume.",
		"Set evenkeel.dev/node-loss on the StatefulSet if its program bears that."},
	{"pod-itself", "The admission plugin DefaultTolerationSeconds runs before webhooks, so a pod always says " +
		"something itself.",
		"Nothing has to be done: pods of a template get the template's tolerations."},
	{"known-revision", "kubectl rollout undo must give back exactly what ran, or it would be one more new revision.",
		"Nothing has to be done. The next change of the template brings the defaults."},
	{"template-done", "What a pod gets is decided at its template, so that all its siblings are alike.",
		"Look at the workload with evenkeel explain KIND/NAME."},
	{"written-record", "Manifests that evenkeel inject has written say what was added. Adding more would be a " +
		"difference in git.",
		"Run evenkeel inject again on the manifest to bring it up to date."},
	{"foreign-record", "evenkeel removes only what a record shows to be its own, and it can't trust this one.",
		"Remove the annotation evenkeel.dev/injected from the pod template."},
	{"container-name", "A record names containers. Without a proper name, nothing could be taken back from the right one.",
		"Give each container a name of its own, of lower-case letters, digits and hyphens."},
	{"too-many-parts", "A review may cost only so much, or one object could slow down everybody's.",
		"Split the workload. Set its fields by hand otherwise."},
	{"patch-too-large", "The API server holds every patch in memory and applies it while the request waits.",
		"Use shorter selectors and fewer containers, or set the fields by hand."},
	{"deadline", "A review must be answered within the webhook's timeout. A drain must not be held for ever.",
		"Look at evenkeel_admission_duration_seconds and at evenkeel's CPU limit. For a drain, look at why the " +
			"new pod is not ready."},
	{"no-room", "The API server refuses more than 256 KiB of annotations, and without a record nothing could be taken " +
		"back.",
		"Remove large annotations from the pod template."},
	{"unreadable-object", "What evenkeel can't read without doubt, it could damage.",
		"Look for a field of the wrong type, or for a field that stands twice."},
	{"internal-error", "An error of evenkeel must never keep anybody from deploying.",
		"Look in evenkeel's log for the panic or the error, and report it."},

	{"applied", "Every workload of two or more replicas can do without one of them while a node is drained.",
		"Nothing has to be done."},
	{"unusable-value", "A typing error must not leave the workload without a budget.",
		"Correct the annotation: a number or a percentage, as docs/reference/settings.md says."},
	{"would-block-drains", "A budget that never allows an eviction stops every drain, and with it upgrades of nodes.",
		"Ask for a budget that leaves one replica to evict, or run more replicas."},
	{"would-take-all", "A budget that allows all pods to go at once protects nothing.",
		"Ask for less, or set evenkeel.dev/disruption-budget=off."},
	{"quorum-of-two", "A majority of two is two, so that a budget for it would never let a pod go.",
		"Run three replicas."},
	{"unscalable-pods", "The disruption controller counts the expected pods by the scale of their controllers.",
		"Give the workload a selector that only its own pods match."},
	{"stepped-aside", "Pods that never get ready must not stop the drain of a node for ever.",
		"Find out why pods are not ready. The budget returns by itself."},
	{"below-two", "With one replica, a budget either blocks every drain or allows every eviction.",
		"Run at least two replicas, or set evenkeel.dev/drain=surge where evenkeel serves with --surge."},
	{"other-budget", "The eviction API answers with an error when two budgets select a pod.",
		"Nothing has to be done. Delete the other budget to get evenkeel's."},
	{"overlapping-selector", "The eviction API answers with an error when two budgets select a pod.",
		"Give each workload a selector that only its own pods match."},
	{"name-taken", "evenkeel changes only budgets that it made.", "Rename or delete the other budget."},
	{"no-access", "evenkeel reads the scale of a kind only where its ClusterRole allows that.",
		"Add list and watch on the resource, and get on its scale, to the ClusterRole of evenkeel."},
	{"quota", "The last place in a quota is for somebody who needs it, not for a default.",
		"Raise the ResourceQuota for poddisruptionbudgets.policy."},
	{"crowded", "Comparing every selector with every other one costs time that grows with the square of their number.",
		"Give the workload a selector with a label of its own."},
	{"refused", "An admission policy, a quota or missing rights can refuse a budget like any other object.",
		"Look at evenkeel's log for the API server's answer."},

	{"surging", "A drain that waits for the new pod interrupts nobody.",
		"Nothing has to be done. The drain goes on by itself."},
	{"waiting", "The old pod serves until the new one is ready.",
		"Nothing has to be done. If it lasts, look at why the new pod is not ready."},
	{"other-owner", "Only a Deployment can bring up another pod before it removes one.",
		"Run two replicas, so that a budget protects them."},
	{"ending", "A pod that ends already can't be kept.", "Nothing has to be done."},
	{"not-ready", "A pod that is not ready gets no requests.", "Nothing has to be done."},
	{"several-replicas", "Several replicas cover for each other, and their budget paces the drain.",
		"Nothing has to be done."},
	{"not-last", "Another ready pod goes on serving.", "Nothing has to be done."},
	{"paused", "A paused Deployment makes no new pods, so the drain would wait in vain.",
		"Run kubectl rollout resume on it."},
	{"no-surge", "With Recreate or maxSurge 0, the old pod goes before the new one comes.",
		"Use the strategy RollingUpdate with maxSurge of at least 1."},
	{"one-node-volume", "The new pod can't mount the volume while the old one has it.",
		"Use a volume with the access mode ReadWriteMany, or none."},
	{"rolling-out", "A second restart in the middle of a rollout would start it again.",
		"Nothing has to be done. Finish rollouts before a drain."},
	{"again", "A new pod on the node that is drained would have to go as well.",
		"Cordon the node before evictions begin."},
	{"unknown", "A doubt of evenkeel must not stop the drain of a node.", "Look at evenkeel's log and at its rights."},

	{"none-ready", "A workload that is down already needs help first; how it is spread comes later.", ""},
	{"one-node", "The scheduler spreads replicas by preference only, and pods stay where they are when nodes come back.",
		""},
	{"one-zone", "A zone is lost as a whole: by its power, its network, or its cloud provider.", ""},
	{"drain-blocked", "A budget counts against the replicas that there can be, and this one leaves no room.", ""},
	{"budgets-overlap", "The eviction API can't tell which budget to charge, and refuses.", ""},
	{"drain-waits", "A drain asks again every few seconds until the budget allows the eviction.", ""},
	{"budget-not-in-force", "The eviction API refuses until status.observedGeneration is that of the budget.", ""},
	{"nowhere-to-go", "The scheduler can only place a pod where its selectors, affinities and volumes allow it.", ""},
	{"single-replica", "Nobody answers between the end of the only pod and the start of the next one.", ""},
	{"sleep-too-short", "A cloud load balancer is told of an ending pod by its controller and lets go of it later " +
		"than the nodes do. Nodes learn late of the last of many pods that leave one node at once. Requests that come " +
		"after the sleep fail.", ""},
	{"bare-pod", "An eviction or a lost node deletes the pod, and only a controller makes another.", ""},
	{"missed-injection", "Templates are changed at admission only, so what is older, or came while evenkeel was away, " +
		"lacks them.", ""},
	{"missing-anti-affinity", "Without it the scheduler may place all replicas on one node, or in one zone.", ""},
	{"missing-pre-stop-sleep", "Endpoints and load balancers learn of an ending pod at the same time as its " +
		"containers, and act later.", ""},
	{"missing-readiness-probe", "Without a probe a pod counts as ready when its process has started.", ""},
	{"missing-node-loss", "By default Kubernetes waits five minutes before it replaces the pods of a lost node.", ""},
	{"missing-disruption-budget", "kubectl drain evicts all pods of a node at once, and several nodes may be drained " +
		"together.", ""},
}
