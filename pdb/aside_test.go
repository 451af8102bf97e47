package pdb

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestABudgetStepsAside(t *testing.T) {
	cases := map[string]struct {
		exists func(*Budget)
		ask    string
		after  time.Duration
		want   string
		next   time.Duration
	}{
		"not while it permits evictions": {func(b *Budget) { b.RefusesSince = time.Time{} }, "", time.Hour,
			"Deployment/web applied: web-evenkeel maxUnavailable=1", 0},
		"not before its patience is over": {func(*Budget) {}, "", 9 * time.Minute,
			"Deployment/web applied: web-evenkeel maxUnavailable=1", 10 * time.Minute},
		"when its patience is over": {func(*Budget) {}, "", 10 * time.Minute,
			"Deployment/web stepped-aside: web-evenkeel maxUnavailable=100%", 0},
		"sooner where the workload asks for it": {func(*Budget) {}, "1m", time.Minute,
			"Deployment/web stepped-aside: web-evenkeel maxUnavailable=100%", 0},
		"never where the workload asks for it": {func(*Budget) {}, "off", time.Hour,
			"Deployment/web applied: web-evenkeel maxUnavailable=1", 0},
		"and stays so while a replica is missing": {func(b *Budget) { b.Aside, b.Healthy = noon, 2 }, "", time.Hour,
			"Deployment/web stepped-aside: web-evenkeel maxUnavailable=100%", 0},
		"and stays so for a minute": {func(b *Budget) { b.Aside, b.Healthy = noon, 3 }, "", time.Second,
			"Deployment/web stepped-aside: web-evenkeel maxUnavailable=100%", time.Minute},
		"and returns when all replicas are healthy": {func(b *Budget) { b.Aside, b.Healthy = noon, 3 }, "", time.Minute,
			"Deployment/web applied: web-evenkeel maxUnavailable=1", 0},
		"not for the workload that had the name before": {func(b *Budget) { b.Owners[0].UID = "other" }, "", time.Hour,
			"Deployment/web applied: web-evenkeel maxUnavailable=1", 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := asks(deployment("web", 3), "maxUnavailable=1")
			if c.ask != "" {
				w.Patience = &c.ask
			}
			n := optedIn(w)
			have := *Desired(n, rules())[0].Budget
			have.RefusesSince = noon
			c.exists(&have)
			n.Budgets, n.Now = []Budget{have}, noon.Add(c.after)
			d := Desired(n, rules())[0]
			if got := line(d); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			want := time.Time{}
			if c.next > 0 {
				want = noon.Add(c.next)
			}
			if !d.Next.Equal(want) {
				t.Errorf("looked at again at %v, want %v", d.Next, want)
			}
		})
	}
}

// stands is a budget as the API server keeps it, and the disruption controller its status.
func stands(
	b Budget, before *policyv1.PodDisruptionBudget, replicas, healthy int, now time.Time,
) *policyv1.PodDisruptionBudget {
	p := manifest("shop", &b)
	p.Labels = map[string]string{ManagedByLabel: Manager}
	p.OwnerReferences, p.UID, p.ResourceVersion = b.Owners, "1", now.Format(time.RFC3339)
	p.Annotations = configuration("shop", b).Annotations
	var desired int
	if b.MaxUnavailable != nil {
		most, _ := intstr.GetScaledValueFromIntOrPercent(b.MaxUnavailable, replicas, true)
		desired = max(0, replicas-most)
	} else {
		desired, _ = intstr.GetScaledValueFromIntOrPercent(b.MinAvailable, replicas, true)
	}
	status := metav1.ConditionFalse
	if healthy > desired {
		status = metav1.ConditionTrue
	}
	p.Status.ExpectedPods = int32(replicas)
	p.Status.CurrentHealthy, p.Status.DisruptionsAllowed = int32(healthy), int32(max(0, healthy-desired))
	p.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: status,
		LastTransitionTime: metav1.NewTime(now)}}
	if before != nil && before.Status.Conditions[0].Status == status {
		p.Status.Conditions[0].LastTransitionTime = before.Status.Conditions[0].LastTransitionTime
	}
	return p
}

// In a thousand clusters pods break, hang and recover at random, leaders change, and each leader reads
// what an informer keeps. While a workload has a healthy pod, no budget refuses longer than its patience.
func TestNoBudgetRefusesLongerThanItsPatience(t *testing.T) {
	settings := []string{"", "quorum", "maxUnavailable=1", "maxUnavailable=50%", "minAvailable=2", "minAvailable=50%",
		"minAvailable=99%"}
	aside, returned := 0, 0
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := deployment("web", int32(2+r.IntN(9)))
		if s := settings[r.IntN(len(settings))]; s != "" {
			w = asks(w, s)
		}
		n := optedIn(w)
		if r.IntN(3) == 0 {
			n.Autoscalers = []Autoscaler{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", MinReplicas: 2}}
		}
		if r.IntN(5) == 0 {
			n.Pods = []Pods{{Labels: map[string]string{"app": "web"}, Unscalable: true}}
		}
		patience := time.Duration(1+r.IntN(10)) * time.Minute
		text := patience.String()
		n.Workloads[0].Patience = &text
		replicas := int(n.Workloads[0].Replicas)
		healthy := replicas
		var exists *policyv1.PodDisruptionBudget
		var refuses time.Time
		wasAside := false
		for now, next := noon, noon; now.Before(noon.Add(2 * time.Hour)); now = now.Add(10 * time.Second) {
			changed := r.IntN(30) == 0
			if changed {
				healthy = r.IntN(replicas + 1)
				if r.IntN(2) == 0 {
					healthy = replicas
				}
			}
			n.Now = now
			if exists != nil {
				exists = stands(FromBudget(exists), exists, replicas, healthy, now)
			}
			if exists == nil || changed || !next.IsZero() && !now.Before(next) {
				n.Budgets = nil
				if exists != nil {
					data, err := keepBudget(exists).Marshal()
					if err != nil {
						t.Fatal(err)
					}
					b, err := packed(data).budget()
					if err != nil {
						t.Fatal(err)
					}
					n.Budgets = []Budget{b}
				}
				d := Desired(n, rules())[0]
				if d.Budget == nil {
					t.Fatalf("seed %d: %s", seed, d.Code)
				}
				if is := d.Code == SteppedAside; is != wasAside {
					wasAside = is
					if is {
						aside++
					} else {
						returned++
					}
				}
				next = d.Next
				exists = stands(*d.Budget, exists, replicas, healthy, now)
				if c := exists.Status.Conditions[0]; c.Status == metav1.ConditionFalse && next.IsZero() {
					next = now.Add(time.Second) // the informer shows the new status
				}
			}
			if exists.Status.DisruptionsAllowed > 0 || healthy == 0 {
				refuses = time.Time{}
			} else if refuses.IsZero() {
				refuses = now
			} else if took := now.Sub(refuses); took > patience+20*time.Second {
				t.Fatalf("seed %d: %s has refused for %v, patience %v, %s", seed, fmt.Sprint(FromBudget(exists)),
					took, patience, text)
			}
		}
	}
	if aside < 500 || returned < 500 {
		t.Errorf("budgets stepped aside %d times and returned %d times, so this shows little", aside, returned)
	}
}
