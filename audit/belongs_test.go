package audit

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/withdraw"
)

// owned adds a controller to an object of a state.
func owned(s *State, kind, name string, by metav1.OwnerReference) {
	yes := true
	by.Controller = &yes
	for i := range s.Objects {
		if o := &s.Objects[i]; o.Kind == kind && o.Metadata.Name == name {
			o.Metadata.OwnerReferences = []metav1.OwnerReference{by}
		}
	}
}

func TestExplainAnswersForWhatBelongsToAnother(t *testing.T) {
	plain, board := state(), state()
	deploy(t, &plain, "in", "web", 2, "node-0", "node-1")
	deploy(t, &board, "in", "web", 2, "node-0", "node-1")
	owned(&board, "Deployment", "web",
		metav1.OwnerReference{APIVersion: "boards.example/v1", Kind: "Board", Name: "front"})
	alone := state()
	deploy(t, &alone, "in", "web", 0)
	owned(&alone, "Deployment", "web",
		metav1.OwnerReference{APIVersion: "boards.example/v1", Kind: "Board", Name: "front"})
	for name, c := range map[string]struct {
		state      State
		kind, name string
		want       string
	}{
		"a Deployment": {plain, "Deployment", "web", "in/Deployment/web: "},
		"a ReplicaSet": {plain, "ReplicaSet", "web-1", "ReplicaSet web-1 belongs to in/Deployment/web, which this is about."},
		"a pod":        {plain, "Pod", "web-1-0", "Pod web-1-0 belongs to in/Deployment/web, which this is about."},
		"a Deployment that another object owns": {board, "Deployment", "web",
			"Deployment web belongs to in/Board/front, which would put its template back, so evenkeel leaves that as it is " +
				"(owned-template)"},
		"the ReplicaSet of such a one": {board, "ReplicaSet", "web-1", "ReplicaSet web-1 belongs to in/Board/front"},
		"such a one without pods": {alone, "Deployment", "web",
			`deployment "web" belongs to Board "front", which has no pods now`},
	} {
		q := Question{Target: Target{c.kind, c.name}, State: &c.state, Rules: rules(t), Installation: &Installation{}}
		text, err := Explain(q)
		if err != nil {
			text = []byte(err.Error())
		}
		if !strings.HasPrefix(string(text), c.want) {
			t.Errorf("%s: it says\n%s\nwant\n%s", name, text, c.want)
		}
	}
}

func TestExplainSaysWhatHelpsAgainstAWrongGuess(t *testing.T) {
	s := state()
	deploy(t, &s, "in", "web", 2, "node-0", "node-1")
	s.Cluster = patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 33},
		OldestKubelet: patches.Version{Major: 1, Minor: 28}, OldestNode: "old"}
	guess, err := rules(t).Injector.Guess(s.Objects[0].JSON, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := withdraw.Key{Namespace: "in", Kind: "Deployment", Name: "web"}
	for containers, noted := range map[uint64]bool{guess.Fingerprint: true, guess.Fingerprint + 1: false} {
		s.Notes = map[withdraw.Key]withdraw.Note{key: {Key: key, Code: patches.SkipProbeFailed, Containers: containers}}
		q := Question{Target: Target{"Deployment", "web"}, State: &s, Rules: rules(t), Installation: &Installation{}}
		text, err := Explain(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"probe-never-succeeds",
			"kubectl -n in rollout restart deployment/web takes the probe out.",
			"kubectl -n in annotate deployment/web evenkeel.dev/readiness-probe=tcp:PORT asks for the right one."} {
			if strings.Contains(string(text), want) != noted {
				t.Errorf("with a note that holds: %v, it says %q: %v\n%s", noted, want, !noted, text)
			}
		}
		if !strings.Contains(string(text), "warning: the kubelet of node old is of version 1.28") {
			t.Errorf("no warning of the old node:\n%s", text)
		}
	}
}
