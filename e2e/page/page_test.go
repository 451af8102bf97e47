// Package page looks at the pages that people look at in a real browser: the audit as HTML, and the proof as GitHub
// renders its Markdown, with its pictures.
package page

import (
	"context"
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/renderer/html"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

var (
	shots = flag.String("shots", "", "directory that the pictures of the pages are written to, to be looked at")

	//go:embed testdata/checks.js
	checks string

	// browser is where the tests open their tabs.
	browser context.Context
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	program := ""
	for _, name := range []string{"chromium-headless-shell", "chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil && program == "" {
			program = path
		}
	}
	if program == "" {
		fmt.Fprintln(os.Stderr, "Chromium is missing; make packages installs it on Debian")
		return 1
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program),
		chromedp.WSURLReadTimeout(time.Minute), chromedp.WindowSize(1000, 1300))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium has none for root
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel := chromedp.NewContext(allocator)
	defer cancel()
	if err := chromedp.Do(ctx); err != nil { // starts it
		fmt.Fprintln(os.Stderr, "start Chromium:", err)
		return 1
	}
	browser = ctx
	return m.Run()
}

// tab is a page in the browser.
type tab struct {
	ctx context.Context
	t   *testing.T
}

// open shows an address. The context ends with the test, and within a minute.
func open(t *testing.T, address string, before ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	p := &tab{ctx, t}
	p.do(append(before, chromedp.Navigate(address))...)
	evaluate[bool](p, checks+";true")
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if len(steps) > 0 {
		// The first action of a tab takes its context, which a timeout would end.
		if err := chromedp.Do(p.ctx); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

func evaluate[T any](p *tab, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// sees fails for everything that a check of testdata/checks.js finds wrong. Then it breaks the page with a
// style or a script, and fails unless the check sees that.
func (p *tab) sees(check, broken string) {
	p.t.Helper()
	for i, text := range evaluate[[]string](p, check) {
		if i < 10 {
			p.t.Errorf("%s: %s", check, text)
		}
	}
	evaluate[bool](p, broken+";true")
	if len(evaluate[[]string](p, check)) == 0 {
		p.t.Errorf("%s finds nothing after %s", check, broken)
	}
}

// style returns a script that adds a style sheet.
func style(css string) string {
	quoted, _ := json.Marshal(css) // of a string
	return fmt.Sprintf("document.head.append(Object.assign(document.createElement('style'), {textContent: %s}))", quoted)
}

// picture writes what the tab shows, screen by screen, for people to look at.
func (p *tab) picture(name string) {
	p.t.Helper()
	const most = 6
	for i := 0; *shots != "" && i < most; i++ {
		if !evaluate[bool](p, fmt.Sprintf("scrollTo(0, %d * innerHeight); scrollY > %d * innerHeight", i, i-1)) {
			break
		}
		png, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
		if err == nil {
			err = os.WriteFile(filepath.Join(*shots, fmt.Sprintf("%s-%d.png", name, i)), png, 0o600)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// phone is the screen of a small one.
func phone() chromedp.Action[chromedp.Void] {
	return chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile, chromedp.EmulateScale(2))
}

// scheme asks for the dark or the light one.
func scheme(value string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})
		return err
	})
}

// serve serves files, or one text, on the loopback interface.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// auditPage returns the address of an audit of that many workloads.
func auditPage(t *testing.T, workloads int) string {
	t.Helper()
	rules, err := audit.NewRules(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	html, err := audit.Page(audit.Run(state(t, workloads), rules), time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write(html) // the browser sees what is missing
	}))
}

// name is that of workload number i. The first have the longest names that Kubernetes allows.
func name(i int) string {
	text := fmt.Sprintf("workload-%04d", i)
	if i < 8 {
		text += "-" + strings.Repeat("long", 12)
	}
	return text
}

func namespace(i int) string {
	text := fmt.Sprintf("team-%02d", i%40)
	if i < 4 {
		text += "-" + strings.Repeat("x", 55)
	}
	return text
}

// state is a cluster with a workload of each severity in turn: three replicas on one node, a single replica, one that
// only lacks defaults, and one that opted out.
func state(t *testing.T, workloads int) audit.State {
	t.Helper()
	s := audit.State{Source: "context prod-eu-west-1", Namespaces: map[string]audit.Namespace{},
		Nodes: map[string]audit.Node{}}
	version := patches.Version{Major: 1, Minor: 33}
	s.Cluster = patches.Cluster{APIServer: version, OldestKubelet: version}
	for i := range 9 {
		s.Nodes[fmt.Sprintf("node-%d", i)] = audit.Node{Zone: fmt.Sprintf("zone-%d", i%3)}
	}
	for i := range workloads {
		replicas := 3
		labels := map[string]string{"app": name(i)}
		meta := map[string]any{"name": name(i), "namespace": namespace(i), "labels": labels}
		switch i % 4 {
		case 1:
			replicas = 1
		case 3:
			meta["labels"] = map[string]string{"app": name(i), policy.InjectLabel: policy.Disabled}
		}
		s.Namespaces[namespace(i)] = audit.Namespace{OptedIn: i%40 == 6}
		raw, err := json.Marshal(map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
			"spec": map[string]any{"replicas": replicas, "selector": map[string]any{"matchLabels": labels},
				"template": map[string]any{"metadata": map[string]any{"labels": labels},
					"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": "web",
						"ports": []any{map[string]any{"containerPort": 80}}}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		object, err := audit.NewObject(namespace(i), "", raw)
		if err != nil {
			t.Fatal(err)
		}
		s.Objects = append(s.Objects, object)
		for pod := range replicas {
			node := (i + pod) % 9
			if i%4 == 0 {
				node = i % 9
			}
			s.Pods = append(s.Pods, audit.Pod{Namespace: namespace(i), Name: fmt.Sprintf("%s-%d", name(i), pod), Labels: labels,
				Node: fmt.Sprintf("node-%d", node), Phase: "Running", Ready: true,
				Owner: audit.Owner{APIVersion: "apps/v1", Kind: "Deployment", Name: name(i)},
				JSON:  []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{},"spec":{}}`)})
		}
	}
	none := intstr.FromInt32(0)
	s.Budgets = []policyv1.PodDisruptionBudget{{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace(2), Name: "holds-every-drain"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &none,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name(2)}}},
		Status: policyv1.PodDisruptionBudgetStatus{ExpectedPods: 3, CurrentHealthy: 3, DesiredHealthy: 3}}}
	s.Warnings = []string{"persistent volumes may not be read, so it is not known where pods with volumes can go"}
	return s
}

func TestTheAuditCanBeReadOnAPhone(t *testing.T) {
	p := open(t, auditPage(t, 60), phone())
	p.picture("audit-phone")
	p.sees("sideways(12)", style("td { white-space: nowrap; overflow-wrap: normal }"))
}

func TestTheAuditCanBeReadInTheDark(t *testing.T) {
	for _, asked := range []string{"dark", "light"} {
		p := open(t, auditPage(t, 60), scheme(asked))
		p.picture("audit-" + asked)
		dark := evaluate[float64](p, "luminance(ground(document.body))") < .1
		if dark != (asked == "dark") {
			t.Errorf("the ground of the page is not %s", asked)
		}
		p.sees("faint()", style(":root { --soft: #777c83 !important }"))
	}
}

// word is one of a printed page, in points.
type word struct {
	XMin float64 `xml:"xMin,attr"`
	XMax float64 `xml:"xMax,attr"`
	YMin float64 `xml:"yMin,attr"`
	YMax float64 `xml:"yMax,attr"`
	Text string  `xml:",chardata"`
}

// printed is a page as it is printed.
type printed struct {
	Width  float64 `xml:"width,attr"`
	Height float64 `xml:"height,attr"`
	Words  []word  `xml:"word"`
}

// print prints the page on portrait paper, and returns its text without spaces, what is cut off or too small to be
// read, and how many pages there are.
func (p *tab) print(file string) (text string, wrong []string, pages int) {
	p.t.Helper()
	pdf, err := chromedp.Run(p.ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4)))
	if err != nil {
		p.t.Fatal(err)
	}
	dir := *shots
	if dir == "" {
		dir = p.t.TempDir()
	}
	file = filepath.Join(dir, file)
	if err := os.WriteFile(file, pdf, 0o600); err != nil {
		p.t.Fatal(err)
	}
	pdftotext := func(how string) []byte {
		out, err := exec.CommandContext(p.ctx, "pdftotext", how, file, "-").CombinedOutput()
		if err != nil {
			p.t.Fatalf("pdftotext: %v\n%s", err, out)
		}
		return out
	}
	var document struct {
		Pages []printed `xml:"body>doc>page"`
	}
	if err := xml.Unmarshal(pdftotext("-bbox"), &document); err != nil {
		p.t.Fatal(err)
	}
	const smallest = 6 // points of a line's height
	for i, page := range document.Pages {
		if page.Width > page.Height {
			wrong = append(wrong, fmt.Sprintf("page %d is not portrait", i+1))
		}
		for _, w := range page.Words {
			if w.XMin < 0 || w.XMax > page.Width || w.YMin < 0 || w.YMax > page.Height {
				wrong = append(wrong, fmt.Sprintf("page %d cuts off %q", i+1, w.Text))
			}
			if w.YMax-w.YMin < smallest {
				wrong = append(wrong, fmt.Sprintf("page %d: %q is %.1f points high", i+1, w.Text, w.YMax-w.YMin))
			}
		}
	}
	return strings.Join(strings.Fields(string(pdftotext("-raw"))), ""), wrong, len(document.Pages)
}

func TestTheAuditPrintsWhole(t *testing.T) {
	const workloads = 200
	for _, asked := range []string{"light", "dark"} {
		p := open(t, auditPage(t, workloads), scheme(asked))
		parts := evaluate[[]string](p, "parts()")
		if len(parts) < workloads {
			t.Fatalf("%d parts of a page with %d workloads", len(parts), workloads)
		}
		// missing are the rows and paragraphs that aren't printed whole.
		missing := func(text string) (missing []string) {
			for _, part := range parts {
				if !strings.Contains(text, part) {
					missing = append(missing, part)
				}
			}
			return missing
		}
		text, wrong, pages := p.print("audit-" + asked + ".pdf")
		if lacks := missing(text); len(lacks) > 0 {
			t.Errorf("%s: %d of %d rows and paragraphs are not printed, the first %s", asked, len(lacks), len(parts), lacks[0])
		}
		if len(wrong) > 0 {
			t.Errorf("%s: %d words of %d pages can't be read, the first: %s", asked, len(wrong), pages, wrong[0])
		}
		if asked == "dark" {
			continue // the same breaks it
		}
		evaluate[bool](p, style("@media print { ::details-content { content-visibility: hidden !important } }")+";true")
		if text, _, _ := p.print("broken.pdf"); len(missing(text)) == 0 {
			t.Error("a page that prints nothing of what is folded passes for whole")
		}
		evaluate[bool](p, style("@media print { table { width: 2500px !important } }")+";true")
		if text, wrong, _ := p.print("broken.pdf"); len(wrong)+len(missing(text)) == 0 {
			t.Error("tables that are wider than the paper pass for whole")
		}
	}
}

func TestTheAuditSortsBySeverity(t *testing.T) {
	p := open(t, auditPage(t, 200))
	p.sees("disorder()", "document.querySelectorAll('.rows').forEach(group => group.parentElement.prepend(group))")
}

func TestTheAuditFoldsAndFiltersFiveThousandRows(t *testing.T) {
	p := open(t, auditPage(t, 5000))
	if n := evaluate[int](p, "rowsShown()"); n > 200 {
		t.Errorf("%d rows are shown unasked", n)
	}
	p.picture("audit-5000")
	p.do(chromedp.Focus(chromedp.CSS("#filter")))
	const want = 5000 / 40 // those of one namespace, in which all are on one node
	filter := func(text string) (shown int, took float64) {
		t.Helper()
		evaluate[bool](p, `window.took = 0; filter.addEventListener("input", () => {
			const start = performance.now();
			requestAnimationFrame(() => setTimeout(() => window.took = Math.max(window.took, performance.now() - start)));
		}, {capture: true}); true`)
		evaluate[bool](p, "filter.value = ''; true")
		p.do(chromedp.SendKeys(chromedp.CSS("#filter"), text))
		for range 100 {
			if took = evaluate[float64](p, "window.took"); took > 0 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		return evaluate[int](p, "rowsShown()"), took
	}
	shown, took := filter("one-node team-12")
	t.Logf("a key among 5,000 rows takes %.0f ms", took)
	if shown != want {
		t.Errorf("the filter shows %d rows, want %d", shown, want)
	}
	if text := evaluate[string](p, "found.textContent"); !strings.HasPrefix(text, fmt.Sprint(want, " match")) {
		t.Errorf("the page says %q", text)
	}
	const most = 2000 // milliseconds, on a busy machine
	if took == 0 || took > most {
		t.Errorf("a key takes %.0f ms, want at most %d", took, most)
	}
	p.picture("audit-filtered")
	if shown, _ := filter("no-such-workload"); shown != 0 {
		t.Errorf("a filter that matches nothing shows %d rows", shown)
	}
	p.do(chromedp.Clear(chromedp.CSS("#filter")))
	if n := evaluate[int](p, "filter.dispatchEvent(new Event('input')); rowsShown()"); n > 200 {
		t.Errorf("%d rows are shown without a filter", n)
	}
	// Without the script nothing filters: the same keys show that.
	bare := open(t, auditPage(t, 100), chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled,
			emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
	if evaluate[bool](bare, "shown(document.getElementById('filter'))") {
		t.Error("a page without its script has a filter, which does nothing")
	}
	if n := evaluate[int](bare, "rowsShown()"); n != 75 {
		t.Errorf("a page without its script shows %d of 75 rows that aren't folded", n)
	}
}

func TestTheAuditIsUsedWithTheKeyboard(t *testing.T) {
	p := open(t, auditPage(t, 500))
	const stops = "[...document.querySelectorAll('summary, input')].filter(shown).length"
	want := evaluate[int](p, stops)
	reached := map[string]bool{}
	for range want {
		p.do(chromedp.KeyEvent("\t"))
		at := evaluate[string](p, "document.activeElement.tagName + "+
			"(document.activeElement.getBoundingClientRect().top + scrollY)")
		if strings.HasPrefix(at, "BODY") {
			break
		}
		reached[at] = true
		for _, text := range evaluate[[]string](p, "unmarked()") {
			t.Errorf("nothing shows that the focus is on %s", text)
		}
	}
	if len(reached) != want || want < 5 {
		t.Errorf("the tab key reaches %d of %d", len(reached), want)
	}
	// The last one is the last group, which is folded.
	before := evaluate[int](p, "rowsShown()")
	p.do(chromedp.KeyEvent("\r"))
	if n := evaluate[int](p, "rowsShown()"); n != before+125 {
		t.Errorf("the enter key unfolds %d rows, want 125", n-before)
	}
	p.do(chromedp.KeyEvent("\r"))
	if n := evaluate[int](p, "rowsShown()"); n != before {
		t.Errorf("the enter key folds to %d rows, want %d", n, before)
	}
	p.picture("audit-keyboard")
	p.sees("unmarked()", style(":focus-visible { outline: none !important }"))
}

// What a tenant wrote could only run with another script, which the page doesn't allow.
func TestTheAuditRunsItsOwnScriptOnly(t *testing.T) {
	p := open(t, auditPage(t, 4))
	inject := func(p *tab) bool {
		return evaluate[bool](p, `document.body.append(Object.assign(document.createElement("script"),
			{textContent: "window.hostile = true"})); window.hostile === true`)
	}
	if inject(p) {
		t.Error("another script ran")
	}
	if !inject(open(t, serve(t, http.NotFoundHandler()))) {
		t.Error("the script runs nowhere")
	}
}

// likeGitHub is what GitHub's style sheet says of the width of things: pictures fit in, and tables and code scroll by
// themselves.
const likeGitHub = `<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<style>:root { color-scheme: light dark }
body { font: 16px/1.5 sans-serif; max-width: 1012px; margin: 0 auto; padding: 16px;
overflow-wrap: break-word } img { max-width: 100% } table, pre { display: block; overflow: auto; max-width: 100% }
th, td { border: 1px solid; padding: 6px 13px }</style>`

// proof serves the documents as GitHub renders them.
func proof(t *testing.T) string {
	t.Helper()
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	markdown := goldmark.New(goldmark.WithExtensions(extension.GFM), goldmark.WithRendererOptions(html.WithUnsafe()))
	files := http.FileServer(http.Dir(root))
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, ".md") {
			files.ServeHTTP(w, r)
			return
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(likeGitHub))
		_ = markdown.Convert(text, w) // the browser sees what is missing
	}))
}

func TestTheProofCanBeReadOnAPhone(t *testing.T) {
	address := proof(t)
	for _, page := range []string{"README.md", "docs/proof/README.md", "docs/proof/report.md", "docs/proof/speed.md",
		"docs/concepts/recycling.md"} {
		p := open(t, address+"/"+page, phone())
		p.picture("proof-" + strings.ReplaceAll(page, "/", "-") + "-phone")
		p.sees("unrendered()", "document.images[0].src = 'no-such.svg'; new Promise(done => setTimeout(done, 200))")
		evaluate[bool](p, "document.images[0].after('|---|---|'); true")
		if wrong := evaluate[[]string](p, "unrendered()"); len(wrong) < 2 {
			t.Errorf("%s: a table that isn't rendered passes", page)
		}
		p.sees("sideways(12, 'table, pre')", style("img, p { min-width: 1000px }"))
	}
}

// The pictures have a ground of their own, in both color schemes.
func TestThePicturesOfTheProofCanBeRead(t *testing.T) {
	address := proof(t)
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(root, "docs/proof/*.svg"))
	if err != nil || len(names) < 20 {
		t.Fatalf("%d pictures, %v", len(names), err)
	}
	p := open(t, address+"/README.md", scheme("dark"))
	for _, name := range names {
		p.do(chromedp.Navigate(address + "/docs/proof/" + filepath.Base(name)))
		evaluate[bool](p, checks+";true")
		p.picture("plot-" + filepath.Base(name))
		for _, text := range evaluate[[]string](p, "cut()") {
			t.Errorf("%s: %s", filepath.Base(name), text)
		}
		if !evaluate[bool](p, "covered()") {
			t.Errorf("%s has no ground of its own, and black text on what may be black", filepath.Base(name))
		}
	}
	p.sees("cut()", "document.querySelector('text').setAttribute('x', -30)")
	evaluate[bool](p, "document.querySelector('rect').remove(); true")
	if evaluate[bool](p, "covered()") {
		t.Error("a picture without a ground passes")
	}
}
