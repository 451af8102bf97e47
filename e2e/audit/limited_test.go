package audit

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	report "github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
)

// as returns a kubeconfig file with which every call is made in the name of a user.
func as(t *testing.T, user string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(shared.Kubeconfig)
	check.Must(t, err)
	for _, info := range config.AuthInfos {
		info.Impersonate = user
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	check.Must(t, clientcmd.WriteToFile(*config, file))
	return file
}

// TestTenantsSeeTheirNamespaceAndAreToldWhatTheyMayNotSee has Kubernetes' own role view, in one
// namespace, and nothing else.
func TestTenantsSeeTheirNamespaceAndAreToldWhatTheyMayNotSee(t *testing.T) {
	ns := namespace(t, optedIn)
	create(t, ns, deployment("web", 2))
	check.Eventually(t, "two pods", func() error {
		if n := ready(t, ns)["web"]; n != 2 {
			return fmt.Errorf("%d are ready", n)
		}
		return nil
	})
	_, err := shared.Client.RbacV1().RoleBindings(ns).Create(t.Context(),
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "tenants"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "tenant"}}},
		metav1.CreateOptions{})
	check.Must(t, err)
	tenant := "--kubeconfig=" + as(t, "tenant")

	var r report.Report
	check.Eventually(t, "the tenant may view", func() error {
		stdout, stderr, code := evenkeel(t, "audit", "-o", "json", "-n", ns, tenant)
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, stderr)
		}
		return json.Unmarshal([]byte(stdout), &r)
	})
	for _, want := range []string{"webhook configurations may not be listed", "nodes may not be read",
		"PersistentVolumes may not be read", "ingressclasses may not be read"} {
		if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("no warning says %q: %q", want, r.Warnings)
		}
	}
	if len(r.Warnings) != 4 {
		t.Errorf("%d warnings, want 4: %q", len(r.Warnings), r.Warnings)
	}
	all := audit(t, "-n", ns)
	if len(r.Workloads) != 1 || len(all.Workloads) != 1 {
		t.Fatalf("%d workloads, and %d for whoever may see everything; want 1", len(r.Workloads), len(all.Workloads))
	}
	for i := range r.Workloads[0].Defaults { // a tenant may not read evenkeel's flags, and is told so
		r.Workloads[0].Defaults[i].Source, all.Workloads[0].Defaults[i].Source = "", ""
	}
	if seen, is := r.Workloads[0],
		all.Workloads[0]; !seen.OptedIn || seen.Ready != is.Ready || fmt.Sprint(seen.Defaults) != fmt.Sprint(is.Defaults) {
		t.Errorf("the tenant sees %+v, and it is %+v", seen, is)
	}

	if stdout, stderr, code := evenkeel(t, "explain", "-n", ns, "deploy/web", tenant); code != 0 ||
		!strings.Contains(stdout, "anti-affinity") {
		t.Errorf("explain: exit code %d: %s%s", code, stdout, stderr)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"everything": {[]string{"audit", "-A", tenant}, "name a namespace that you may read with -n"},
		"a stranger": {[]string{"audit", "-n", ns, "--kubeconfig=" + as(t, "stranger")},
			"it needs get, list on workloads and pods"},
	} {
		if stdout, stderr, code := evenkeel(t, c.args...); code != 2 || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit code %d, %q, %q; want 2, nothing, and an error that says %q", name, code, stdout, stderr, c.want)
		}
	}
}
