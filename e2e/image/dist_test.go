package image

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var platforms = flag.String("platforms", "linux/"+runtime.GOARCH+" windows/"+runtime.GOARCH,
	"what make dist builds programs for, as OS/ARCH, with spaces between; default is an archive of each kind for this "+
		"machine's architecture")

// unpacked returns the files of a tar.gz or zip, and fails where one has an owner or a time.
func unpacked(t *testing.T, path string) map[string][]byte {
	t.Helper()
	if strings.HasSuffix(path, ".zip") {
		return unzipped(t, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(zipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if strings.HasSuffix(path, ".tar.gz") && (header.ModTime.Unix() != 0 || header.Uid != 0 || header.Uname != "") {
			t.Errorf("%s: %s is of %q at %s", path, header.Name, header.Uname, header.ModTime)
		}
	}
}

// unzipped is unpacked for a zip, whose time begins in 1980.
func unzipped(t *testing.T, path string) map[string][]byte {
	t.Helper()
	archive, err := zip.OpenReader(path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer func() { _ = archive.Close() }()
	files := map[string][]byte{}
	for _, f := range archive.File {
		content, err := f.Open()
		if err == nil {
			files[f.Name], err = io.ReadAll(content)
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", path, f.Name, err)
		}
		if !f.Modified.Equal(time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)) || len(f.Extra) > 0 {
			t.Errorf("%s: %s is of %s, with %d bytes of owner and the like", path, f.Name, f.Modified, len(f.Extra))
		}
	}
	return files
}

// TestEveryArtifactOfAReleaseIsWhole makes a release for -platforms and opens each of its files.
func TestEveryArtifactOfAReleaseIsWhole(t *testing.T) {
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := cluster.Build(t.Context(), os.Stderr, cluster.Helm, cluster.Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	const version, repository = "v1.2.3", "https://example.com/evenkeel"
	dist := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", "dist", "DIST="+dist, "PLATFORMS="+*platforms,
		"VERSION="+version, "COMMIT=0123abc", "IMAGE=r.example.com/evenkeel", "REPOSITORY="+repository,
		"HELM="+filepath.Join(bin, cluster.Helm), "KUBECTL="+filepath.Join(bin, cluster.Kubectl))
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make dist: %v\n%s", err, out)
	}

	sums := map[string]string{}
	list, err := os.ReadFile(filepath.Join(dist, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		sums[name] = sum
	}
	entries, err := os.ReadDir(dist)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dist, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		if entry.Name() != "checksums.txt" && sums[entry.Name()] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has another checksum than %q", entry.Name(), sums[entry.Name()])
		}
	}

	var krew struct {
		Spec struct {
			Version, Homepage string
			Platforms         []struct {
				Selector         struct{ MatchLabels map[string]string }
				URI, Sha256, Bin string
			}
		}
	}
	decode(t, filepath.Join(dist, "krew.yaml"), &krew)
	want := strings.Fields(*platforms)
	if krew.Spec.Version != version || krew.Spec.Homepage != repository || len(krew.Spec.Platforms) != len(want) {
		t.Fatalf("krew.yaml is of %+v, want %s", krew.Spec, want)
	}
	for i, platform := range want {
		system, arch, _ := strings.Cut(platform, "/")
		archive := fmt.Sprintf("evenkeel-%s-%s.tar.gz", system, arch)
		if system == "windows" {
			archive = fmt.Sprintf("evenkeel-%s-%s.zip", system, arch)
		}
		p := krew.Spec.Platforms[i]
		if p.Selector.MatchLabels["os"] != system || p.Selector.MatchLabels["arch"] != arch ||
			p.Sha256 != sums[archive] || p.URI != repository+"/releases/download/"+version+"/"+archive {
			t.Errorf("krew.yaml says %+v of %s", p, platform)
		}
		files := unpacked(t, filepath.Join(dist, archive))
		begins := map[string]string{"linux": "\x7fELF", "darwin": "\xcf\xfa\xed\xfe", "windows": "MZ"}[system]
		if len(files) != 2 || len(files["LICENSE"]) == 0 || !bytes.HasPrefix(files[p.Bin], []byte(begins)) {
			t.Errorf("%s doesn't hold %s and LICENSE alone", archive, p.Bin)
		}
		if system == "linux" {
			linux(t, dist, arch, files[p.Bin])
		}
	}
	chartOf(t, filepath.Join(dist, "evenkeel-1.2.3.tgz"))
	install, err := os.ReadFile(filepath.Join(dist, "install.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"image: r.example.com/evenkeel:v1.2.3\n", "kind: MutatingWebhookConfiguration\n",
		"kind: Namespace\n"} {
		if !strings.Contains(string(install), line) {
			t.Errorf("install.yaml has no line %q", line)
		}
	}
}

// decode reads a file of YAML or JSON.
func decode(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// linux checks what there is for Linux only: image and bill of materials. It runs the program where it can.
func linux(t *testing.T, dist, arch string, program []byte) {
	t.Helper()
	image, err := os.Open(filepath.Join(dist, "evenkeel-image-"+arch+".tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = image.Close() }()
	manifests := 0
	for r := tar.NewReader(image); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == "manifest.json" {
			var list []struct{ RepoTags []string }
			if err := json.NewDecoder(r).Decode(&list); err != nil || len(list) != 1 ||
				fmt.Sprint(list[0].RepoTags) != "[r.example.com/evenkeel:v1.2.3]" {
				t.Errorf("the image is tagged %v, %v", list, err)
			}
			manifests++
		}
	}
	if manifests != 1 {
		t.Errorf("the image has %d manifest.json", manifests)
	}
	var sbom struct {
		BomFormat  string
		Components []any
	}
	decode(t, filepath.Join(dist, "evenkeel-linux-"+arch+".cdx.json"), &sbom)
	if sbom.BomFormat != "CycloneDX" || len(sbom.Components) < 10 {
		t.Errorf("the bill of materials is of %q with %d components", sbom.BomFormat, len(sbom.Components))
	}
	if arch != runtime.GOARCH || runtime.GOOS != "linux" {
		return
	}
	path := filepath.Join(t.TempDir(), "kubectl-evenkeel")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "evenkeel v1.2.3\ncommit 0123abc\n") {
		t.Errorf("the program says %q, %v", out, err)
	}
}

// chartOf checks the packaged chart.
func chartOf(t *testing.T, path string) {
	t.Helper()
	files := unpacked(t, path)
	var chart struct {
		Version, AppVersion, Icon string
		Annotations               map[string]string
	}
	if err := yaml.Unmarshal(files["evenkeel/Chart.yaml"], &chart); err != nil {
		t.Fatal(err)
	}
	var images []struct{ Name, Image string }
	if err := yaml.Unmarshal([]byte(chart.Annotations["artifacthub.io/images"]), &images); err != nil ||
		len(images) != 1 ||
		images[0].Image != "r.example.com/evenkeel:v1.2.3" {
		t.Errorf("Artifact Hub is told of the images %v, %v", images, err)
	}
	var links []struct{ Name, URL string }
	if err := yaml.Unmarshal([]byte(chart.Annotations["artifacthub.io/links"]), &links); err != nil || len(links) == 0 {
		t.Errorf("Artifact Hub is told of the links %v, %v", links, err)
	}
	if chart.Version != "1.2.3" || chart.AppVersion != "v1.2.3" ||
		chart.Annotations["artifacthub.io/license"] != "Apache-2.0" ||
		!bytes.Contains(files["evenkeel/values.yaml"], []byte("repository: r.example.com/evenkeel\n")) {
		t.Errorf("the chart is of %+v", chart)
	}
	icon, err := os.ReadFile(filepath.Join("..", "..", "docs", filepath.Base(chart.Icon)))
	if err != nil || !bytes.HasPrefix(icon, []byte("<svg ")) {
		t.Errorf("the icon %s is not in docs: %v", chart.Icon, err)
	}
}
