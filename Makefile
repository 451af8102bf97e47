SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# No flags here: what "go test" compiles on its own, the control plane, the tests and the linters share. Only releases
# and the race detector have flags of their own.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Modules with Go code of ours. e2e/ needs a control plane and is tested last; tools/, e2e/kubernetes, e2e/kwok,
# e2e/helm and e2e/kustomize only pin programs.
UNIT_MODULES := . e2e/recycle
MODULES := $(UNIT_MODULES) examples/recycle e2e/validation e2e/bench e2e/flux e2e

# What the tests run beside Go, as COMMAND:PACKAGE of Debian. Installed where it is missing and we are root.
PROGRAMS := gcc:gcc git:git openssl:openssl curl:curl wrk:wrk h2load:nghttp2-client nginx:nginx-light promtool:prometheus \
	xmllint:libxml2-utils chromium-headless-shell:chromium-headless-shell pdftotext:poppler-utils \
	zip:zip

# What real nodes are made of: Linux, and for root only.
NODE_PROGRAMS := containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins iptables:iptables nft:nftables \
	conntrack:conntrack ip:iproute2 ethtool:ethtool socat:socat

# Fuzz targets of what tenants send to the webhook. Each runs for FUZZTIME, the others for FUZZTIME_OTHERS.
HOSTILE := FuzzBody FuzzEnvelope FuzzScanner FuzzString FuzzParse FuzzReview FuzzResolve
FUZZTIME ?= 60s
FUZZTIME_OTHERS ?= 5s

# Whole packages of the end-to-end tests, one after another: each starts a control plane, and two cores carry one.
E2E_TIMEOUT ?= 60m

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show on a real control plane what evenkeel adds (the first time builds it: about 9 minutes)
	@echo "building the demo, a minute without Go's build cache …" >&2
	cd e2e && go run ./demo

# The parts of make test, in order. The unit tests run every fuzz target on its seeds; what fuzzing finds depends on chance,
# and says nothing about the change that is tested: .github/workflows/fuzz.yml looks every night.
PARTS := fmt vet lint unit e2e proof-short bench-quick

.PHONY: test
test: packages ## Everything that CI checks, on a machine with Go and Debian, and how long each part took
	@times=()
	trap 'printf "\n"; printf "%-12s %5s\n" part took "$${times[@]}"' EXIT
	for part in $(PARTS); do
		SECONDS=0
		$(MAKE) "$$part" || status=$$?
		times+=("$$part" "$$((SECONDS / 60)):$$(printf %02d $$((SECONDS % 60)))")
		if [ "$${status:-0}" != 0 ]; then exit "$$status"; fi
	done

.PHONY: build
build: ## Build bin/evenkeel
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/evenkeel .

.PHONY: fmt
fmt: ## Check that the code is gofmt'ed
	@files=$$(find . -name '*.go' -not -path './bin/*' -not -path './e2e/bin/*' -print0 | xargs -0 gofmt -s -l)
	if [ -n "$$files" ]; then
		printf 'not formatted, run gofmt -s -w on:\n%s\n' "$$files"
		exit 1
	fi

.PHONY: vet
vet: ## Run go vet over all modules, and over the builds of the negative controls
	@for module in $(MODULES); do
		echo "go vet $$module"
		(cd "$$module" && go vet ./...)
	done
	go vet -tags evenkeel_broken_patch,evenkeel_unguarded ./...

.PHONY: lint
lint: bin/golangci-lint ## Run the linters of .golangci.yml over all modules
	@failed=0
	for module in $(MODULES); do
		echo "golangci-lint $$module"
		(cd "$$module" && "$(CURDIR)/bin/golangci-lint" run --allow-serial-runners --config "$(CURDIR)/.golangci.yml" ./...) || failed=1
	done
	exit $$failed

bin/golangci-lint: tools/go.mod tools/go.sum
	@echo "building golangci-lint, about two minutes the first time"
	cd tools && go build -ldflags "-s -w" -o ../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# The packages with tests that -short cuts down: many rounds over pure functions, in which there is no race to find.
FULL := ./certs ./patches

.PHONY: unit
unit: packages ## Run the unit tests with the race detector, and what is slow with it again in full
	@for module in $(UNIT_MODULES); do
		echo "go test -race $$module"
		(cd "$$module" && go test -race -short -timeout 20m ./...)
	done
	go test $(FULL)

# Only our own packages are instrumented, by the flag that go test -fuzz sets for all: what they import is then compiled
# once for everything, which saves ten minutes without a cache, and what is new in it leads nowhere.
INSTRUMENT := -gcflags=github.com/evenkeel/evenkeel/...=-d=libfuzzer

.PHONY: fuzz
fuzz: ## Run the fuzz targets of hostile input for FUZZTIME (60s) and the others for 5s, two at a time
	@binaries=$$(mktemp -d)
	trap 'rm -r "$$binaries"' EXIT
	export cache="$$(go env GOCACHE)/fuzz"
	list=()
	for module in $(UNIT_MODULES); do
		for dir in $$(cd "$$module" && go list -f '{{.Dir}}' ./...); do
			targets=$$(grep -hos '^func Fuzz[A-Za-z]*' "$$dir"/*_test.go) || continue
			binary="$$binaries/$${#list[@]}"
			go test -C "$$dir" -c $(INSTRUMENT) -o "$$binary" .
			for target in $${targets//func /}; do
				time=$(FUZZTIME_OTHERS)
				if [[ " $(HOSTILE) " == *" $$target "* ]]; then time=$(FUZZTIME); fi
				list+=("$$dir" "$$target" "$$binary" "$$time")
			done
		done
	done
	for target in $(HOSTILE); do
		if [[ " $${list[*]} " != *" $$target "* ]]; then echo "there is no fuzz target $$target"; exit 1; fi
	done
	# An interrupt ends a target, and not -test.fuzztime: on a busy machine that now and then fails with nothing but
	# "context deadline exceeded" (https://github.com/golang/go/issues/75804).
	one() { # the output of a target is printed when it has ended, and with a failure the input
		cd "$$1"
		if output=$$(timeout --foreground --preserve-status --signal INT --kill-after 1m "$$4" \
			"$$3" -test.run '^$$' -test.fuzz "^$$2\$$" -test.fuzzminimizetime 1s -test.parallel 1 -test.fuzzcachedir "$$cache/$$2" 2>&1) &&
			! grep -q 'without coverage guidance' <<<"$$output"; then
			echo "$$2 ran for $$4:$$(grep -o ' execs: [0-9]*' <<<"$$output" | tail -1)"
			return
		fi
		echo "$$2 in $$1 failed:"
		grep -v '^fuzz: elapsed' <<<"$$output"
		grep -o 'testdata/fuzz/[^ ]*' <<<"$$output" | while read -r input; do tail -n +1 "$$input"; done
		return 1
	}
	export -f one
	printf '%s\n' "$${list[@]}" | xargs -r -n 4 -P 2 bash -euo pipefail -c 'one "$$@"' fuzz

# Never from the test cache, which does not see that the evenkeel has changed that a test builds and starts. The validation
# says which seed it took.
.PHONY: e2e
e2e: packages ## Run the end-to-end tests on a real control plane (KUBECONFIG: on that cluster)
	@cd e2e
	if [ -z "$${KUBECONFIG:-}" ]; then go run ./controlplane -build; fi
	go test -count=1 -p 1 -timeout $(E2E_TIMEOUT) ./...
	(cd validation && go test -count=1 -v -timeout $(E2E_TIMEOUT) ./...)
	(cd flux && go test -count=1 -timeout $(E2E_TIMEOUT) ./...)
	cd bench
	go test -count=1 -timeout $(E2E_TIMEOUT) -run InTheAPIServer .

# Minor versions with their latest patch that is published as a module.
API_SERVERS ?= v1.33.13 v1.34.4 v1.35.4

.PHONY: versions
versions: ## Test admission on the API servers of API_SERVERS (six minutes each to build, the first time)
	@cd e2e
	for version in $(API_SERVERS); do
		echo "API server $$version"
		go test -count=1 -timeout $(E2E_TIMEOUT) ./admission -args -api-server "$$version"
	done

# Repetitions of each scenario of the proof, and where its report goes.
RUNS ?= 3
PROOF ?= docs/proof

.PHONY: proof
proof: packages ## Run every scenario on three real nodes, without and with evenkeel (root, about an hour)
	@cd e2e
	go build -o bin/proof ./proof
	bin/proof -runs $(RUNS) -o "$(abspath $(PROOF))"

.PHONY: proof-short
proof-short: packages ## Run two scenarios of the proof, in about four minutes (root; says so where it can't)
	@if [ "$$(id -u)" != 0 ] || [ "$$(uname)" != Linux ]; then
		printf '%s\n' '' \
			'############################################################################' \
			'##  NOT RUN: the proof on real nodes. It needs Linux and root.            ##' \
			'##  Nothing above has shown what clients see while pods come and go.      ##' \
			'############################################################################' '' >&2
		exit 0
	fi
	cd e2e
	go build -o bin/proof ./proof
	bin/proof -short -o bin/proof-short

.PHONY: soak
soak: packages ## Rotate, kill, restart and attack evenkeel for long (root for the memory limit, about 50 minutes)
	@cd e2e
	if [ -z "$${KUBECONFIG:-}" ]; then go run ./controlplane -build; fi
	go test -count=1 -v -timeout 2h ./replicas -timeout-seconds 2 -rotating 10m -authority-lifetime 45s -creates-per-second 500 -killing 5m -rolling-restarts 50 -attacked 10m
	go test -count=1 -v -timeout 1h ./abuse -length 60s -idle 10000 -slow 2000
	go test -count=1 -v -timeout 1h ./rights -each

# Where speed.md and its plots go.
SPEED ?= docs/proof

.PHONY: bench
bench: ## Measure what an admission costs beside other webhooks and policies (about 10 minutes; BENCH: more flags, such as a contestant by URL)
	@cd e2e/bench
	go run . -o "$(abspath $(SPEED))" $(BENCH)
	go test -run '^$$' -bench . -benchtime 0.5s .

.PHONY: bench-quick
bench-quick: ## Check the ratios of that in two minutes
	@cd e2e/bench
	go test -count 1 -v -skip InTheAPIServer . | grep -v '^=== RUN\|^ *--- PASS'

.PHONY: cluster
cluster: ## Run a control plane with fake nodes in three zones until Ctrl-C
	@cd e2e && go run ./controlplane

.PHONY: image
image: ## Write the container image to bin/evenkeel-image.tar, without Docker
	@mkdir -p bin
	cd e2e && go run ./image/evenkeel -o ../bin/evenkeel-image.tar -version "$(VERSION)" -commit "$(COMMIT)"

.PHONY: sbom
sbom: ## Write what the program is made of to bin/evenkeel.cdx.json (CycloneDX)
	@mkdir -p bin
	cd e2e && go run ./image/evenkeel -o ../bin/evenkeel-image.tar -sbom ../bin/evenkeel.cdx.json -version "$(VERSION)" -commit "$(COMMIT)"

# Where the image and the archives of a release are, what programs are built for, and where all of it is written to.
IMAGE ?= evenkeel/evenkeel
REPOSITORY ?= https://github.com/evenkeel/evenkeel
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
DIST ?= dist
HELM ?= bin/helm
KUBECTL ?= bin/kubectl

# The programs for Linux are those of the images. The same source gives the same bytes: archives hold no times and no owners.
.PHONY: dist
dist: $(HELM) $(KUBECTL) ## Write all of a release to dist/: make dist VERSION=v1.2.3
	@rm -rf "$(DIST)"
	mkdir -p "$(DIST)"
	dist=$$(realpath "$(DIST)") helm=$$(realpath "$(HELM)")
	stage=$$(mktemp -d)
	trap 'rm -r "$$stage"' EXIT
	cp LICENSE "$$stage"
	for platform in $(PLATFORMS); do
		os=$${platform%/*} arch=$${platform#*/} program=evenkeel
		name="evenkeel-$$os-$$arch" archive="evenkeel-$$os-$$arch.tar.gz"
		if [ "$$os" = windows ]; then program=evenkeel.exe archive="$$name.zip"; fi
		if [ "$$os" = linux ]; then
			(cd e2e && go run ./image/evenkeel -arch "$$arch" -name "$(IMAGE):$(VERSION)" -version "$(VERSION)" -commit "$(COMMIT)" \
				-o "$$dist/evenkeel-image-$$arch.tar" -program "$$stage/$$program" -sbom "$$dist/$$name.cdx.json")
		else
			CGO_ENABLED=0 GOOS="$$os" GOARCH="$$arch" go build -trimpath -buildvcs=false -ldflags "-buildid= $(LDFLAGS)" -o "$$stage/$$program" .
		fi
		if [ "$$os" = windows ]; then # what a zip knows of time begins in 1980
			chmod 755 "$$stage/$$program" && chmod 644 "$$stage/LICENSE"
			(cd "$$stage" && TZ=UTC touch -d 1980-01-01 "$$program" LICENSE && TZ=UTC zip -qX "$$dist/$$archive" "$$program" LICENSE)
		else
			tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go+rX,go-w --mtime=@0 -C "$$stage" -c "$$program" LICENSE | gzip -n > "$$dist/$$archive"
		fi
		sum=$$(sha256sum < "$$dist/$$archive")
		printf '    - selector:\n        matchLabels: {os: %s, arch: %s}\n      uri: %s\n      sha256: %s\n      bin: %s\n' "$$os" "$$arch" \
			"$(REPOSITORY)/releases/download/$(VERSION)/$$archive" "$${sum%% *}" "$$program" >> "$$stage/platforms"
	done
	sed 's|VERSION|$(VERSION)|; s|REPOSITORY|$(REPOSITORY)|' deploy/krew/evenkeel.yaml | cat - "$$stage/platforms" > "$$dist/krew.yaml"
	cp -r deploy "$$stage"
	sed -i 's|^  repository: evenkeel/evenkeel$$|  repository: $(IMAGE)|' "$$stage/deploy/chart/values.yaml"
	sed -i 's|image: evenkeel/evenkeel:dev|image: $(IMAGE):$(VERSION)|' "$$stage/deploy/chart/Chart.yaml"
	"$$helm" package "$$stage/deploy/chart" --version "$(VERSION:v%=%)" --app-version "$(VERSION)" --destination "$$dist"
	sed -i 's|newName: .*|newName: $(IMAGE)|; s|newTag: .*|newTag: $(VERSION)|' "$$stage/deploy/image/kustomization.yaml"
	"$(KUBECTL)" kustomize "$$stage/deploy" > "$$dist/install.yaml"
	cd "$$dist"
	sha256sum -- * > "$$stage/checksums.txt"
	cp "$$stage/checksums.txt" .
	ls -l

bin/kubectl: e2e/kubernetes/go.mod e2e/kubernetes/go.sum
	@echo "building kubectl, about a minute the first time"
	cd e2e/kubernetes && go build -ldflags "-s -w" -o ../../bin/kubectl k8s.io/kubernetes/cmd/kubectl

bin/helm: e2e/helm/go.mod e2e/helm/go.sum
	@echo "building helm, about two minutes the first time"
	cd e2e/helm && go build -ldflags "-s -w" -o ../../bin/helm helm.sh/helm/v4/cmd/helm

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities with govulncheck, whose database must be within reach
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

.PHONY: reproduce
reproduce: ## Build evenkeel in two directories, the second time with an empty build cache, and compare the bytes
	cd e2e && go test -count=1 -timeout 30m -v -run TestTwoDirectoriesGiveTheSameEvenkeel ./image -args -cold

# Installs what is missing of PROGRAMS, or says what to install.
.PHONY: packages
packages:
	@export PATH="$$PATH:/usr/sbin"
	missing=()
	programs=($(PROGRAMS))
	if [ "$$(id -u)" = 0 ] && [ "$$(uname)" = Linux ]; then programs+=($(NODE_PROGRAMS)); fi
	for entry in "$${programs[@]}"; do
		command -v "$${entry%%:*}" >/dev/null || missing+=("$${entry##*:}")
	done
	command -v go >/dev/null || { echo "Go is missing; go.mod says which version"; exit 1; }
	if [ "$${#missing[@]}" = 0 ]; then exit 0; fi
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "missing, please install: $${missing[*]}"
		exit 1
	fi
	echo "installing $${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # no service of a package is started
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

# A recipe is one shell script that ends at its first error.
.ONESHELL:
