package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// fields compares policies by what they say, not by where it comes from.
var fields = cmpopts.IgnoreUnexported(Policy{})

func annotation(name, value string) map[string]string { return map[string]string{Prefix + name: value} }

// builtIn returns the built-in policy after a change.
func builtIn(change func(*Policy)) Policy {
	p := Default()
	change(&p)
	return p
}

func TestDefaultIsWhatTheDesignSays(t *testing.T) {
	want := Policy{
		AntiAffinity:     AntiAffinityPreferred,
		Spread:           SpreadAntiAffinity,
		TopologyKeys:     []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"},
		PreStopSleep:     10 * time.Second,
		ReadinessProbe:   Probe{Kind: ProbeAuto},
		DisruptionBudget: Budget{Kind: BudgetMaxUnavailable, Value: 10, Percent: true},
		BudgetPatience:   10 * time.Minute,
	}
	if diff := cmp.Diff(want, Default(), fields); diff != "" {
		t.Error(diff)
	}
	for _, s := range Settings() {
		if from := builtIn(func(*Policy) {}); from.From(s.Name) != SourceFlag || from.Asked(s.Name) {
			t.Errorf("%s comes from %q", s.Name, from.From(s.Name))
		}
	}
}

func TestEverySettingHasARowThatIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Settings() {
		if s.Name == "" || s.Values == "" || s.Effect == "" || !strings.HasSuffix(s.Effect, ".") || seen[s.Name] {
			t.Errorf("row of %q is not whole: %+v", s.Name, s)
		}
		seen[s.Name] = true
		if s.Annotation() != "evenkeel.dev/"+s.Name {
			t.Errorf("annotation of %s is %s", s.Name, s.Annotation())
		}
		if s.Flag == (s.Default == "") {
			t.Errorf("%s has a flag: %t, but the default %q", s.Name, s.Flag, s.Default)
		}
		if s.Flag {
			p := Default()
			if err := p.Set(s.Name, s.Default, DefaultBounds()); err != nil {
				t.Errorf("default of %s is not allowed: %v", s.Name, err)
			}
			if diff := cmp.Diff(Default(), p, fields); diff != "" {
				t.Errorf("default of %s, set by flag, differs from the built-in one:\n%s", s.Name, diff)
			}
		}
	}
	if most := len(Policy{}.from); len(Settings()) > most {
		t.Errorf("a Policy remembers where %d settings come from, but there are %d", most, len(Settings()))
	}
}

// allowed and refused are values of every setting.
var allowed = []struct {
	name, value string
	want        func(*Policy)
}{
	{SettingAntiAffinity, "preferred", func(p *Policy) { p.AntiAffinity = AntiAffinityPreferred }},
	{SettingAntiAffinity, "required", func(p *Policy) { p.AntiAffinity = AntiAffinityRequired }},
	{SettingAntiAffinity, "off", func(p *Policy) { p.AntiAffinity = AntiAffinityOff }},
	{SettingTopologyKeys, "rack", func(p *Policy) { p.TopologyKeys = []string{"rack"} }},
	{SettingTopologyKeys, " kubernetes.io/hostname ,\texample.com/Rack_1.a ", func(p *Policy) {
		p.TopologyKeys = []string{"kubernetes.io/hostname", "example.com/Rack_1.a"}
	}},
	{SettingTopologyKeys, "a,b,c,d,e,f,g,h", func(p *Policy) { p.TopologyKeys = strings.Split("a,b,c,d,e,f,g,h", ",") }},
	{SettingTopologyKeys, strings.Repeat("a", 253) + "/" + strings.Repeat("b", 63), func(p *Policy) {
		p.TopologyKeys = []string{strings.Repeat("a", 253) + "/" + strings.Repeat("b", 63)}
	}},
	{SettingPreStopSleep, "off", func(p *Policy) { p.PreStopSleep = 0 }},
	{SettingPreStopSleep, "auto", func(p *Policy) { p.AutoSleep = true }},
	{SettingPreStopSleep, "1s", func(p *Policy) { p.PreStopSleep = time.Second }},
	{SettingPreStopSleep, "60s", func(p *Policy) { p.PreStopSleep = time.Minute }},
	{SettingPreStopSleep, "1m", func(p *Policy) { p.PreStopSleep = time.Minute }},
	{SettingPreStopSleep, "0.5m", func(p *Policy) { p.PreStopSleep = 30 * time.Second }},
	{SettingPreStopSleep, "2000ms", func(p *Policy) { p.PreStopSleep = 2 * time.Second }},
	{SettingReadinessProbe, "auto", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeAuto} }},
	{SettingReadinessProbe, "off", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeOff} }},
	{SettingReadinessProbe, "tcp:1", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeTCP, PortNumber: 1} }},
	{SettingReadinessProbe, "tcp:65535", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeTCP, PortNumber: 65535} }},
	{SettingReadinessProbe, "tcp:a-1", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeTCP, PortName: "a-1"} }},
	{SettingReadinessProbe, "tcp:8080tcp",
		func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeTCP, PortName: "8080tcp"} }},
	{SettingReadinessProbe, "http:80",
		func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeHTTP, PortNumber: 80, Path: "/"} }},
	{SettingReadinessProbe, "http:80/",
		func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeHTTP, PortNumber: 80, Path: "/"} }},
	{SettingReadinessProbe, "http:web/a/b?c=d:e#f", func(p *Policy) {
		p.ReadinessProbe = Probe{Kind: ProbeHTTP, PortName: "web", Path: "/a/b?c=d:e#f"}
	}},
	{SettingReadinessProbe, "https:8443/ready", func(p *Policy) {
		p.ReadinessProbe = Probe{Kind: ProbeHTTPS, PortNumber: 8443, Path: "/ready"}
	}},
	{SettingReadinessProbe, "grpc:9000", func(p *Policy) { p.ReadinessProbe = Probe{Kind: ProbeGRPC, PortNumber: 9000} }},
	{SettingReadinessProbe, "grpc:api/a.B/c", func(p *Policy) {
		p.ReadinessProbe = Probe{Kind: ProbeGRPC, PortName: "api", Service: "a.B/c"}
	}},
	{SettingDisruptionBudget, "off", func(p *Policy) { p.DisruptionBudget = Budget{Kind: BudgetOff} }},
	{SettingDisruptionBudget, "quorum", func(p *Policy) { p.DisruptionBudget = Budget{Kind: BudgetQuorum} }},
	{SettingDisruptionBudget, "maxUnavailable=2", func(p *Policy) {
		p.DisruptionBudget = Budget{Kind: BudgetMaxUnavailable, Value: 2}
	}},
	{SettingDisruptionBudget, "maxUnavailable=100%", func(p *Policy) {
		p.DisruptionBudget = Budget{Kind: BudgetMaxUnavailable, Value: 100, Percent: true}
	}},
	{SettingDisruptionBudget, "minAvailable=0", func(p *Policy) { p.DisruptionBudget = Budget{Kind: BudgetMinAvailable} }},
	{SettingDisruptionBudget, "minAvailable=50%", func(p *Policy) {
		p.DisruptionBudget = Budget{Kind: BudgetMinAvailable, Value: 50, Percent: true}
	}},
	{SettingDisruptionBudget, "minAvailable=2147483647", func(p *Policy) {
		p.DisruptionBudget = Budget{Kind: BudgetMinAvailable, Value: 2147483647}
	}},
	{SettingDrain, "off", func(p *Policy) { p.DrainSurge = false }},
	{SettingDrain, "surge", func(p *Policy) { p.DrainSurge = true }},
	{SettingNodeLoss, "off", func(p *Policy) { p.NodeLoss = 0 }},
	{SettingNodeLoss, "1s", func(p *Policy) { p.NodeLoss = time.Second }},
	{SettingNodeLoss, "30s", func(p *Policy) { p.NodeLoss = 30 * time.Second }},
	{SettingNodeLoss, "24h", func(p *Policy) { p.NodeLoss = 24 * time.Hour }},
	{SettingContainers, "web", func(p *Policy) { p.Containers = []string{"web"} }},
	{SettingContainers, "web, api-2 ,0", func(p *Policy) { p.Containers = []string{"web", "api-2", "0"} }},
}

var refused = map[string][]string{
	SettingAntiAffinity: {"", " ", "Preferred", "preferred ", "true", "on", "preferred,required", "off\x00",
		strings.Repeat("x", 1<<20)},
	SettingTopologyKeys: {
		"", " ", ",", "a,", ",a", "a,,b", "a,a", "a, a", "a b", "a/b/c", "/a", "a/", "-a", "a-", "_a", "a.", "A/b",
		"a..b/c", ".a/b", "a-/b",
		"ä", "a\x00", "\"a\"", "$(a)", "a,b,c,d,e,f,g,h,i", strings.Repeat("a", 64), strings.Repeat("a", 254) + "/b",
		strings.Repeat(",", 1<<20),
	},
	SettingPreStopSleep: {
		"", " ", "10", "10 s", " 10s", "-1s", "0", "0s", "1.5s", "500ms", "1ns", "1s1ns", "ten", "10S", "1d", "∞", "1e3s",
		"0x10s", "NaNs", "99999999999999999999h", "1s\x00", "Auto", "auto:10s", strings.Repeat("1", 1<<20) + "s",
		"1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s",
	},
	SettingReadinessProbe: {
		"", " ", "Auto", "auto:", "off:80", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:-1", "tcp:+80", "tcp:080", "tcp: 80",
		"tcp:80 ", "tcp:80/", "tcp:80/x",
		"tcp:8_0", "tcp:80:81", "tcp:a--b", "tcp:-a", "tcp:a-", "tcp:A", "tcp:a_b", "tcp:abcdefghijklmnop", "tcp:ä",
		"udp:53", "exec:true",
		"http", "http:", "http:/", "http:/ready", "http://host:80/ready", "http:80/a b", "http:80/\n",
		"http:80/\x7f", "http:80/ä",
		"http:80/" + strings.Repeat("a", 1024), "grpc:80/", "grpc:80/a b", "grpc:80/" + strings.Repeat("a", 254),
		"tcp:99999999999999999999", strings.Repeat("tcp:", 1<<18),
	},
	SettingDisruptionBudget: {
		"", " ", "1", "maxUnavailable", "maxUnavailable=", "maxUnavailable=%", "maxUnavailable=0", "maxUnavailable=0%",
		"maxUnavailable=-1", "maxUnavailable=1.5",
		"maxUnavailable=101%", "maxUnavailable=1%%", "maxUnavailable= 1", "maxUnavailable=1 ", "maxunavailable=1",
		"maxUnavailable=+1", "maxUnavailable=0x1",
		"maxUnavailable=2147483648", "minAvailable=100%", "minAvailable=", "maxUnavailable==1", "Quorum", "quorum=1", "off=1",
		"both=1", strings.Repeat("9", 1<<20),
	},
	SettingDrain: {"", " ", "Surge", "surge ", "on", "true", "off\x00", strings.Repeat("x", 1<<20)},
	SettingNodeLoss: {
		"", " ", "30", "30 s", "-1s", "0", "0s", "1.5s", "1ns", "on", "Off", "24h1s", "99999999h", "1s\x00",
		strings.Repeat("1", 1<<20) + "s",
	},
	SettingContainers: {
		"", " ", ",", "web,", "web,web", "Web", "web_1", "-web", "web-", "web.1", "a/b", "ä", "w\neb",
		strings.Repeat("a", 64), "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", strings.Repeat("a,", 1<<19),
	},
}

func TestAllowedValuesAreTaken(t *testing.T) {
	for _, test := range allowed {
		t.Run(test.name+"="+test.value[:min(len(test.value), 40)], func(t *testing.T) {
			got, problems := Resolve(Default(), DefaultBounds(), Annotations{SourceWorkload, annotation(test.name, test.value)})
			if len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
			if diff := cmp.Diff(builtIn(test.want), got, fields); diff != "" {
				t.Error(diff)
			}
			if !got.Asked(test.name) || got.From(test.name) != SourceWorkload {
				t.Errorf("comes from %q", got.From(test.name))
			}
			p := Default()
			err := p.Set(test.name, test.value, DefaultBounds())
			if test.name == SettingContainers {
				if err == nil {
					t.Error("a flag names containers")
				}
				return
			}
			if diff := cmp.Diff(builtIn(test.want), p, fields); diff != "" || err != nil {
				t.Errorf("by flag: error %v, %s", err, diff)
			}
		})
	}
}

func TestAutoNeverShortensTheSleep(t *testing.T) {
	for _, c := range []struct {
		namespace, workload string
		bound               time.Duration
		sleep               time.Duration
		auto                bool
	}{
		{"", "auto", time.Minute, 10 * time.Second, true},
		{"45s", "auto", time.Minute, 45 * time.Second, true},
		{"off", "auto", time.Minute, 10 * time.Second, true},
		{"off", "auto", 4 * time.Second, 4 * time.Second, true},
		{"auto", "20s", time.Minute, 20 * time.Second, false},
		{"auto", "2m", time.Minute, time.Minute, false},
		{"auto", "off", time.Minute, 0, false},
		{"auto", "", time.Minute, 10 * time.Second, true},
	} {
		var sources []Annotations
		for source, value := range map[Source]string{SourceWorkload: c.workload, SourceNamespace: c.namespace} {
			if value != "" {
				sources = append(sources, Annotations{source, annotation(SettingPreStopSleep, value)})
			}
		}
		slices.SortFunc(sources, func(a, b Annotations) int { return -strings.Compare(string(a.Source), string(b.Source)) })
		got, _ := Resolve(Default(), Bounds{MaxPreStopSleep: c.bound}, sources...)
		if got.PreStopSleep != c.sleep || got.AutoSleep != c.auto {
			t.Errorf("Namespace %q, workload %q: sleep %v, auto %v; want %v, %v", c.namespace, c.workload, got.PreStopSleep,
				got.AutoSleep, c.sleep, c.auto)
		}
	}
}

func TestRefusedValuesChangeNothing(t *testing.T) {
	for name, values := range refused {
		for _, value := range values {
			t.Run(fmt.Sprintf("%s=%.40q", name, value), func(t *testing.T) {
				got, problems := Resolve(Default(), DefaultBounds(), Annotations{SourcePodTemplate, annotation(name, value)})
				if diff := cmp.Diff(Default(), got, fields); diff != "" {
					t.Error(diff)
				}
				if len(problems) != 1 || problems[0].Code != ProblemValue || problems[0].Key != Prefix+name ||
					problems[0].Value != value || problems[0].Reason == "" || problems[0].Allowed == "" {
					t.Fatalf("problems: %+.100v", problems)
				}
				checkText(t, problems)
				if got.Asked(name) {
					t.Error("counts as asked for")
				}
				p := Default()
				if err := p.Set(name, value, DefaultBounds()); err == nil {
					t.Error("a flag takes it")
				}
				if diff := cmp.Diff(Default(), p, fields); diff != "" {
					t.Errorf("by flag: %s", diff)
				}
			})
		}
	}
}

// TestResolvePrecedence is the truth table: the pod template before the workload
// before the Namespace before the base, and what can't be used counts as not set.
func TestResolvePrecedence(t *testing.T) {
	const none, bad = "", "bad"
	for _, row := range []struct {
		template, workload, namespace string
		want                          time.Duration
		from                          Source
		problems                      int
	}{
		{none, none, none, 10, SourceFlag, 0},
		{none, none, "1s", 1, SourceNamespace, 0},
		{none, "2s", none, 2, SourceWorkload, 0},
		{none, "2s", "1s", 2, SourceWorkload, 0},
		{"3s", none, none, 3, SourcePodTemplate, 0},
		{"3s", none, "1s", 3, SourcePodTemplate, 0},
		{"3s", "2s", none, 3, SourcePodTemplate, 0},
		{"3s", "2s", "1s", 3, SourcePodTemplate, 0},
		{bad, none, none, 10, SourceFlag, 1},
		{bad, none, "1s", 1, SourceNamespace, 1},
		{bad, "2s", "1s", 2, SourceWorkload, 1},
		{bad, bad, "1s", 1, SourceNamespace, 2},
		{bad, bad, bad, 10, SourceFlag, 3},
		{none, bad, "1s", 1, SourceNamespace, 1},
		{"3s", bad, bad, 3, SourcePodTemplate, 2},
		{"off", "2s", "1s", 0, SourcePodTemplate, 0},
		{none, none, "off", 0, SourceNamespace, 0},
		{none, "1h", "1s", 60, SourceWorkload, 1},
	} {
		t.Run(fmt.Sprintf("%q over %q over %q", row.template, row.workload, row.namespace), func(t *testing.T) {
			values := func(value string) map[string]string {
				if value == none {
					return nil
				}
				return annotation(SettingPreStopSleep, value)
			}
			got, problems := Resolve(Default(), DefaultBounds(), Annotations{SourcePodTemplate, values(row.template)},
				Annotations{SourceWorkload, values(row.workload)}, Annotations{SourceNamespace, values(row.namespace)})
			if got.PreStopSleep.Seconds() != float64(row.want) || got.From(SettingPreStopSleep) != row.from ||
				len(problems) != row.problems {
				t.Errorf("is %v from the %s with problems %v; want %d s from the %s with %d", got.PreStopSleep,
					got.From(SettingPreStopSleep), problems, row.want, row.from, row.problems)
			}
			if asked := row.from == SourceWorkload || row.from == SourcePodTemplate; got.Asked(SettingPreStopSleep) != asked {
				t.Errorf("asked for is %t", !asked)
			}
			order := []Source{SourcePodTemplate, SourceWorkload, SourceNamespace}
			if !slices.IsSortedFunc(problems,
				func(a, b Problem) int { return slices.Index(order, a.Source) - slices.Index(order, b.Source) }) {
				t.Errorf("problems are not in the order of the sources: %v", problems)
			}
		})
	}
}

func TestResolveLowersAValueToTheBound(t *testing.T) {
	bounds := Bounds{MaxPreStopSleep: 20 * time.Second}
	got, problems := Resolve(Default(), bounds, Annotations{SourceNamespace, annotation(SettingPreStopSleep, "21s")})
	want := []Problem{{Code: ProblemClamped, Source: SourceNamespace, Key: "evenkeel.dev/pre-stop-sleep", Value: "21s",
		Reason: "is above the operator's bound and lowered", Allowed: "at most 20s"}}
	if diff := cmp.Diff(want, problems); diff != "" || got.PreStopSleep != 20*time.Second {
		t.Errorf("sleep is %v; %s", got.PreStopSleep, diff)
	}
	p := Default()
	if err := p.Set(SettingPreStopSleep, "21s", bounds); err == nil || p.PreStopSleep != 10*time.Second {
		t.Errorf("a flag above the bound gives %v and the error %v", p.PreStopSleep, err)
	}
	if err := p.Set("no-such-setting", "1", bounds); err == nil {
		t.Error("takes a flag that does not exist")
	}
}

func TestResolveChangesNeitherBaseNorAnnotations(t *testing.T) {
	base := Default()
	values := map[string]string{Prefix + SettingTopologyKeys: "a,b", Prefix + SettingContainers: "x",
		Prefix + "other": "y", "foreign": "z"}
	Resolve(base, DefaultBounds(), Annotations{SourceWorkload, values})
	if diff := cmp.Diff(Default(), base, cmp.AllowUnexported(Policy{})); diff != "" {
		t.Errorf("base is changed: %s", diff)
	}
	if len(values) != 4 {
		t.Errorf("annotations are changed: %v", values)
	}
}

func TestResolveReportsKeys(t *testing.T) {
	for name, test := range map[string]struct {
		source  Source
		key     string
		code    ProblemCode
		nearest string
	}{
		"names the nearest key of a misspelt one": {SourceWorkload, "evenkeel.dev/anti-afinity", ProblemKey,
			"evenkeel.dev/anti-affinity"},
		"names the nearest key in other letters": {SourceWorkload, "evenkeel.dev/Topology-Keys", ProblemKey,
			"evenkeel.dev/topology-keys"},
		"names the key that a short one is a part of": {SourceWorkload, "evenkeel.dev/probe", ProblemKey,
			"evenkeel.dev/readiness-probe"},
		"names a key with a dash missing": {SourceWorkload, "evenkeel.dev/prestop-sleep", ProblemKey,
			"evenkeel.dev/pre-stop-sleep"},
		"names the opt-in label where that is near": {SourceWorkload, "evenkeel.dev/injekt", ProblemKey, InjectLabel},
		"names a key with a third of its letters wrong": {SourceWorkload, "evenkeel.dev/anti-bbbbbity", ProblemKey,
			"evenkeel.dev/anti-affinity"},
		"names no key where more letters are wrong": {SourceWorkload, "evenkeel.dev/anti-bbbbbbty", ProblemKey, ""},
		"names no key where none is near":           {SourceWorkload, "evenkeel.dev/zzzzzzzz", ProblemKey, ""},
		"names no key where the key is endless": {SourceWorkload,
			"evenkeel.dev/" + strings.Repeat("a", 1<<16), ProblemKey, ""},
		"takes the prefix alone for unknown":              {SourceWorkload, "evenkeel.dev/", ProblemKey, ""},
		"says that the opt-in label is no annotation":     {SourceNamespace, InjectLabel, ProblemMisplaced, ""},
		"says that the label of done pods is none either": {SourcePodTemplate, DefaultedLabel, ProblemMisplaced, ""},
		"says that a Namespace names no containers": {SourceNamespace, Prefix + SettingContainers,
			ProblemMisplaced, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, problems := Resolve(Default(), DefaultBounds(), Annotations{test.source, map[string]string{test.key: "off"}})
			if diff := cmp.Diff(Default(), p, fields); diff != "" {
				t.Error(diff)
			}
			if len(problems) != 1 || problems[0].Code != test.code || problems[0].Nearest != test.nearest ||
				problems[0].Key != test.key {
				t.Fatalf("problems: %+.200v", problems)
			}
			checkText(t, problems)
		})
	}
	for name, key := range map[string]string{
		"passes over keys of others": "example.com/anti-affinity", "passes over a prefix like ours": "evenkeel.development/x",
		"passes over our own record": InjectedAnnotation,
	} {
		if _, problems := Resolve(Default(), DefaultBounds(),
			Annotations{SourceWorkload, map[string]string{key: "x"}}); len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
	}
}

func TestResolveBoundsTheProblems(t *testing.T) {
	values := map[string]string{}
	for i := range 1000 {
		values[fmt.Sprintf("%sunknown-%03d", Prefix, i)] = strings.Repeat("x", 1000)
	}
	_, problems := Resolve(Default(), DefaultBounds(), Annotations{SourceWorkload, values})
	if len(problems) != maxUnknownKeys || problems[0].Key != Prefix+"unknown-000" ||
		problems[7].Key != Prefix+"unknown-007" {
		t.Errorf("%d problems, the first of %s", len(problems), problems[0].Key)
	}
	checkText(t, problems)
}

func TestCheckLabels(t *testing.T) {
	for name, test := range map[string]struct {
		labels map[string]string
		want   []ProblemCode
	}{
		"passes over labels of others":            {map[string]string{"app": "web", "inject": "x"}, nil},
		"passes over the label that opts out":     {map[string]string{InjectLabel: Disabled}, nil},
		"passes over the label of done pods":      {map[string]string{DefaultedLabel: "anything"}, nil},
		"reports an opt-out that opts nobody out": {map[string]string{InjectLabel: "false"}, []ProblemCode{ProblemValue}},
		"reports an opt-in where none can be":     {map[string]string{InjectLabel: Enabled}, []ProblemCode{ProblemValue}},
		"reports a setting written as a label": {map[string]string{Prefix + SettingAntiAffinity: "off"},
			[]ProblemCode{ProblemMisplaced}},
		"reports a label that does not exist": {map[string]string{Prefix + "injekt": "disabled"}, []ProblemCode{ProblemKey}},
		"reports in the order of the keys": {
			map[string]string{Prefix + "z": "", Prefix + SettingContainers: "a", InjectLabel: ""},
			[]ProblemCode{ProblemMisplaced, ProblemValue, ProblemKey}},
		"reports at most as many as unknown keys":  {many(100), slices.Repeat([]ProblemCode{ProblemKey}, maxUnknownKeys)},
		"passes over a missing map without a word": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			problems := CheckLabels(SourceWorkload, test.labels, Disabled)
			var got []ProblemCode
			for _, p := range problems {
				got = append(got, p.Code)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s: %v", diff, problems)
			}
			checkText(t, problems)
		})
	}
}

func many(n int) map[string]string {
	labels := map[string]string{}
	for i := range n {
		labels[fmt.Sprintf("%slabel%d", Prefix, i)] = ""
	}
	return labels
}

// checkText checks that problems are fit for a warning header.
func checkText(t *testing.T, problems []Problem) {
	t.Helper()
	for _, p := range problems {
		text := p.String()
		switch {
		case len(text) > 256:
			t.Errorf("problem is %d bytes long", len(text))
		case !utf8.ValidString(text):
			t.Errorf("problem is not valid UTF-8: %q", text)
		case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
			t.Errorf("problem holds characters that can't be printed: %q", text)
		case !strings.Contains(text, string(p.Source)):
			t.Errorf("problem does not name its source: %q", text)
		}
	}
}

func TestProblemStaysOneShortLine(t *testing.T) {
	long, hostile := strings.Repeat("ä", 10000), "\x00\n\r\x1b[31m\u202e\u2028\xff\"\\"
	for _, text := range []string{"", "a", long, hostile, strings.Repeat(hostile, 1000)} {
		for _, code := range []ProblemCode{ProblemKey, ProblemValue, ProblemClamped, ProblemMisplaced, ProblemTarget} {
			checkText(t, []Problem{
				{Code: code, Source: SourceWorkload, Key: text, Value: text, Reason: text, Allowed: text, Nearest: text},
				{Code: code, Source: SourceWorkload, Key: "evenkeel.dev/x", Value: text, Reason: text, Allowed: text},
			})
		}
	}
}

func FuzzResolve(f *testing.F) {
	for _, test := range allowed {
		f.Add(Prefix+test.name, test.value, byte(0))
	}
	for name, values := range refused {
		for _, value := range values {
			if len(value) < 5000 {
				f.Add(Prefix+name, value, byte(1))
			}
		}
	}
	f.Add("evenkeel.dev/\x1b[31m\xff", "\u202e\n", byte(2))
	f.Fuzz(func(t *testing.T, key, value string, choice byte) {
		source := []Source{SourcePodTemplate, SourceWorkload, SourceNamespace}[choice%3]
		bounds := Bounds{MaxPreStopSleep: (1 + time.Duration(choice)) * time.Second}
		base := Default()
		base.PreStopSleep = time.Second
		p, problems := Resolve(base, bounds, Annotations{source, map[string]string{key: value}})
		again, more := Resolve(base, bounds, Annotations{source, map[string]string{key: value}})
		if !reflect.DeepEqual(p, again) || !reflect.DeepEqual(problems, more) {
			t.Error("a second run resolves to something else")
		}
		if len(problems) > 1 {
			t.Errorf("%d problems of one annotation", len(problems))
		}
		checkText(t, problems)
		checkText(t, CheckLabels(source, map[string]string{key: value}, Disabled))
		checkBounds(t, p, bounds)
		if unusable := len(problems) > 0 && problems[0].Code != ProblemClamped; unusable {
			if diff := cmp.Diff(base, p, cmp.AllowUnexported(Policy{})); diff != "" {
				t.Errorf("a value that can't be used changes the policy: %s", diff)
			}
		}
		if strings.HasPrefix(key, Prefix) && !known(key) && len(problems) == 0 {
			t.Errorf("nobody is told that %q is not known", key)
		}
	})
}

// checkBounds checks that a policy is one that the rest of the program expects.
func checkBounds(t *testing.T, p Policy, bounds Bounds) {
	t.Helper()
	switch {
	case !slices.Contains([]AntiAffinity{AntiAffinityPreferred, AntiAffinityRequired, AntiAffinityOff}, p.AntiAffinity):
		t.Errorf("anti-affinity is %q", p.AntiAffinity)
	case len(p.TopologyKeys) < 1 || len(p.TopologyKeys) > 8 || !slices.Equal(p.TopologyKeys, unique(p.TopologyKeys)):
		t.Errorf("topology keys are %q", p.TopologyKeys)
	case p.PreStopSleep < 0 || p.PreStopSleep > bounds.MaxPreStopSleep || p.PreStopSleep%time.Second != 0:
		t.Errorf("sleep is %v with a bound of %v", p.PreStopSleep, bounds.MaxPreStopSleep)
	case len(p.Containers) > 16:
		t.Errorf("%d containers", len(p.Containers))
	}
	probe := p.ReadinessProbe
	hasPort := (probe.PortNumber >= 1 && probe.PortNumber <= 65535) != (probe.PortName != "" && len(probe.PortName) <= 15)
	switch probe.Kind {
	case ProbeAuto, ProbeOff:
		if probe != (Probe{Kind: probe.Kind}) {
			t.Errorf("probe is %+v", probe)
		}
	case ProbeHTTP, ProbeHTTPS:
		if !hasPort || !strings.HasPrefix(probe.Path, "/") || len(probe.Path) > 1024 {
			t.Errorf("probe is %+v", probe)
		}
	case ProbeTCP, ProbeGRPC:
		if !hasPort || probe.Path != "" || len(probe.Service) > 253 {
			t.Errorf("probe is %+v", probe)
		}
	default:
		t.Errorf("probe is %+v", probe)
	}
	budget := p.DisruptionBudget
	switch {
	case budget.Kind == BudgetOff, budget.Kind == BudgetQuorum:
	case budget.Value < 0, budget.Percent && budget.Value > 100, budget.Kind == BudgetMaxUnavailable && budget.Value == 0,
		budget.Kind != BudgetMaxUnavailable && budget.Kind != BudgetMinAvailable:
		t.Errorf("budget is %+v", budget)
	}
}

func unique(keys []string) []string {
	sorted := slices.Compact(slices.Sorted(slices.Values(keys)))
	if len(sorted) != len(keys) {
		return sorted
	}
	return keys
}

// TestUnknownKeysAreBoundedBeforeTheyAreKept holds that hundreds of thousands of labels cost no memory.
func TestUnknownKeysAreBoundedBeforeTheyAreKept(t *testing.T) {
	values := map[string]string{}
	for i := range 100_000 {
		values[fmt.Sprintf("%sunknown-%06d", Prefix, i)] = "a"
	}
	for name, check := range map[string]func() []Problem{
		"labels": func() []Problem { return CheckLabels(SourceWorkload, values, Disabled) },
		"annotations": func() []Problem {
			_, problems := Resolve(Default(), DefaultBounds(), Annotations{Source: SourceWorkload, Values: values})
			return problems
		},
	} {
		problems := check()
		if len(problems) != maxUnknownKeys || problems[0].Key != Prefix+"unknown-000000" ||
			problems[7].Key != Prefix+"unknown-000007" {
			t.Errorf("%s: %v, want the first %d", name, problems, maxUnknownKeys)
		}
		if n := testing.AllocsPerRun(1, func() { check() }); n > 1000 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

func TestAPodIsDoneByMoreThanItsLabel(t *testing.T) {
	label := map[string]string{DefaultedLabel: "true"}
	with := func(key string) map[string]string { return map[string]string{DefaultedLabel: "true", key: "a"} }
	for name, c := range map[string]struct {
		labels   map[string]string
		recorded bool
		want     bool
	}{
		"a pod without the label":     {nil, true, false},
		"a label that somebody wrote": {label, false, false},
		"a pod with label and record": {label, true, true},
		"a pod of a Deployment":       {with(TemplateHash), false, true},
		"a pod of a StatefulSet":      {with(RevisionHash), false, true},
		"a label with another value":  {map[string]string{DefaultedLabel: "yes", TemplateHash: "a"}, true, false},
	} {
		if got := Done(c.labels, c.recorded); got != c.want {
			t.Errorf("%s: done: %v, want %v", name, got, c.want)
		}
	}
}
