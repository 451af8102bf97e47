package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/surge"
)

// singles returns a Deployment of one replica for each of kinds, with a setting on the side with evenkeel.
func singles(kinds []string, setting, value string) func(side string) []*appsv1.Deployment {
	return func(side string) []*appsv1.Deployment {
		var list []*appsv1.Deployment
		for i, kind := range kinds {
			d := named(deployment(kind, 1), fmt.Sprintf("single-%s-%d", kind, i+1))
			if side == report.With {
				d.Annotations = map[string]string{policy.Prefix + setting: value}
			}
			list = append(list, d)
		}
		return list
	}
}

// drainSingles drains each node in turn under workloads of one replica.
func (r *run) drainSingles(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 0); err != nil {
		return err
	}
	asking := singles(serverKinds(), policy.SettingDrain, "surge")
	return r.own(ctx, asking, func(targets []load.Target, names []string) error {
		before, err := r.specs(ctx, names)
		if err != nil {
			return err
		}
		_, err = r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			return r.drainEach(ctx, o, names)
		})
		if err != nil {
			return err
		}
		after, err := r.specs(ctx, names)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(before, after); diff != "" {
			return fmt.Errorf("more than the restart's annotation has changed (-before +after):\n%s", diff)
		}
		return nil
	})
}

// specs returns the specs of the Deployments with evenkeel by name, without the annotation of a restart.
func (r *run) specs(ctx context.Context, names []string) (map[string]appsv1.DeploymentSpec, error) {
	specs := map[string]appsv1.DeploymentSpec{}
	for _, name := range names {
		d, err := r.Client.AppsV1().Deployments(report.With).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		delete(d.Spec.Template.Annotations, surge.RestartedAt)
		specs[name] = d.Spec
	}
	return specs, nil
}

// loseForGood loses the node that all workloads of one replica are on, for longer than a toleration of 30 s lasts and
// for less than that of 300 s which Kubernetes adds.
func (r *run) loseForGood(ctx context.Context, s report.Scenario) error {
	const gone, whole = 150 * time.Second, 110 * time.Second // counts as lost after 50 s, and 30 s more
	kinds := slices.Repeat([]string{report.Drains}, 8)
	asking := singles(kinds, policy.SettingNodeLoss, "30s")
	return r.onOneNode(ctx, asking, func(empty string, targets []load.Target, names []string) error {
		s.Rate = 5
		var lost time.Time
		o, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			lost = time.Now()
			if _, err := r.away(ctx, o, empty, gone); err != nil {
				return err
			}
			return r.waitAvailable(ctx, names...)
		})
		if err != nil {
			return err
		}
		served := map[string]time.Duration{}
		for _, side := range report.Sides() {
			served[side] = o.LastFailure(side).Sub(lost)
			o.Notes = append(o.Notes, fmt.Sprintf("%s evenkeel, the last request failed %.0f s after the loss of the node, "+
				"which was back after %.0f s", side, served[side].Seconds(), gone.Seconds()))
		}
		if served[report.With] > whole || served[report.Without] < gone {
			return fmt.Errorf("all is served again %.0f s after the loss without evenkeel and %.0f s with it; wanted more than "+
				"%.0f and less than %.0f", served[report.Without].Seconds(), served[report.With].Seconds(), gone.Seconds(),
				whole.Seconds())
		}
		return nil
	})
}

// closedPort is a port that the servers of wrongProbe declare and don't open.
const closedPort = 7472

// noticedWithin is how soon a probe that can't succeed is to be noticed, with --probe-patience at its two minutes.
const noticedWithin = 3 * time.Minute

// wrongProbe opts a namespace in whose servers declare a port that nobody opens, and then does what people do: a pod is
// lost, a node is drained, the servers are restarted, and healed in three ways.
func (r *run) wrongProbe(ctx context.Context, s report.Scenario) error {
	const namespace = "closed"
	if err := r.settle(ctx, 0); err != nil {
		return err
	}
	namespaces := r.Client.CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := r.observeOn(ctx, s, nil, func(ctx context.Context, o *report.Outcome) error {
		c := closed{run: r, namespace: namespace, o: o}
		if err := c.chain(ctx); err != nil {
			return err
		}
		return c.withoutPatience(ctx)
	})
	return errors.Join(err, namespaces.Delete(ctx, namespace, metav1.DeleteOptions{}))
}

// closed are the servers of wrongProbe.
type closed struct {
	*run
	namespace string
	o         *report.Outcome
}

func (c closed) note(format string, args ...any) {
	c.o.Notes = append(c.o.Notes, fmt.Sprintf(format, args...))
	fmt.Fprintln(c.log, "         ", c.o.Notes[len(c.o.Notes)-1])
}

func (c closed) apply(ctx context.Context, name string, change func(*appsv1.Deployment)) error {
	d := named(deployment(report.Drains, 3), name)
	d.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
	d.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: closedPort}}
	if change != nil {
		change(d)
	}
	manifest, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return c.Apply(ctx, string(manifest), "--namespace="+c.namespace)
}

func (c closed) rollout(ctx context.Context, what, name string) error {
	return c.kubectl(ctx, "rollout", what, "deployment/"+name, "--namespace="+c.namespace)
}

// whole waits until servers run as they are to, and says after three minutes which don't.
func (c closed) whole(ctx context.Context, names ...string) error {
	var last error
	within, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	err := c.wait(within, "servers with a closed port to be complete", func() error {
		last = c.complete(ctx, c.namespace, names...)
		return last
	})
	return errors.Join(err, last)
}

// noticed waits until evenkeel has said of each workload that its probe never succeeds.
func (c closed) noticed(ctx context.Context, names ...string) error {
	return c.wait(ctx, "Events ProbeNeverSucceeds", func() error {
		events, err := c.Client.CoreV1().Events(c.namespace).List(ctx,
			metav1.ListOptions{FieldSelector: "reason=ProbeNeverSucceeds"})
		if err != nil {
			return err
		}
		said := map[string]bool{}
		for _, e := range events.Items {
			said[e.InvolvedObject.Name] = true
		}
		for _, name := range names {
			if !said[name] {
				return fmt.Errorf("none of %s", name)
			}
		}
		return nil
	})
}

// chain is what people do; evenkeel is to leave nobody worse off.
func (c closed) chain(ctx context.Context) error {
	names := []string{"undo", "apply", "restart"}
	for _, name := range names {
		if err := c.apply(ctx, name, nil); err != nil {
			return err
		}
	}
	if err := c.whole(ctx, names...); err != nil {
		return err
	}
	if err := c.kubectl(ctx, "label", "namespace", c.namespace, policy.InjectLabel+"="+policy.Enabled); err != nil {
		return err
	}
	if err := c.wait(ctx, "budgets", func() error {
		_, err := c.Client.PolicyV1().PodDisruptionBudgets(c.namespace).Get(ctx, "undo-evenkeel", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	for _, name := range names {
		pods, err := c.readyPods(ctx, c.namespace, name)
		if err != nil {
			return err
		}
		if err := c.Client.CoreV1().Pods(c.namespace).Delete(ctx, pods[0], metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	if err := c.whole(ctx, names...); err != nil {
		return fmt.Errorf("after a pod was lost: %w", err)
	}
	began := time.Now()
	if err := c.drain(ctx, c.Names[0]); err != nil {
		return err
	}
	c.note("opted in and a pod of each lost, a drain ended after %.0f s", time.Since(began).Seconds())
	if err := errors.Join(c.uncordon(ctx, c.Names[0]), c.whole(ctx, names...)); err != nil {
		return err
	}
	began = time.Now()
	if err := errors.Join(c.rollout(ctx, "restart", "undo"), c.rollout(ctx, "restart", "restart"),
		c.apply(ctx, "apply", otherImage)); err != nil {
		return err
	}
	if err := c.noticed(ctx, names...); err != nil {
		return err
	}
	took := time.Since(began)
	c.note("the probes of three rollouts were noticed to never succeed within %.0f s", took.Seconds())
	if took > noticedWithin {
		return fmt.Errorf("the probes that never succeed were noticed after %.0f s, wanted within %.0f", took.Seconds(),
			noticedWithin.Seconds())
	}
	for _, name := range names {
		if c.complete(ctx, c.namespace, name) == nil {
			return fmt.Errorf("%s is complete, with a probe that can't succeed", name)
		}
	}
	began = time.Now()
	if err := errors.Join(c.rollout(ctx, "undo", "undo"), c.apply(ctx, "apply", nil),
		c.rollout(ctx, "restart", "restart")); err != nil {
		return err
	}
	if err := c.whole(ctx, names...); err != nil {
		return fmt.Errorf("healed in three ways: %w", err)
	}
	c.note("undo, the earlier manifest and a restart healed one each within %.0f s", time.Since(began).Seconds())
	return nil
}

// withoutPatience is the control: evenkeel looks for no failed probe, and a restart heals nothing.
func (c closed) withoutPatience(ctx context.Context) (err error) {
	evenkeel := func(args ...string) error {
		return c.kubectl(ctx, append(args, "--namespace="+installation.Namespace)...)
	}
	if err := evenkeel("patch", "deployment", "evenkeel", "--type=json",
		`--patch=[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--probe-patience=0"}]`); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, evenkeel("rollout", "undo", "deployment/evenkeel"),
			evenkeel("rollout", "status", "deployment/evenkeel", "--timeout=4m"))
	}()
	if err := evenkeel("rollout", "status", "deployment/evenkeel", "--timeout=4m"); err != nil {
		return err
	}
	if err := c.apply(ctx, "control", nil); err != nil {
		return err
	}
	if err := pause(ctx, noticedWithin); err != nil {
		return err
	}
	if err := c.rollout(ctx, "restart", "control"); err != nil {
		return err
	}
	if err := pause(ctx, 20*time.Second); err != nil {
		return err
	}
	if c.complete(ctx, c.namespace, "control") == nil {
		return errors.New("with --probe-patience=0 a restart healed all the same, so that the chain shows nothing")
	}
	c.note("with --probe-patience=0, a restart healed nothing")
	return nil
}
