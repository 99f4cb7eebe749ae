.DEFAULT_GOAL := help

# Every folder with a go.mod, the root module first. A new module needs no mention anywhere.
MODULES := $(sort $(patsubst ./%,%,$(patsubst %/,%,$(dir $(shell find . -name go.mod -not -path '*/testdata/*')))))

# A clone that belongs to another user (as in many CI systems) has no version control status to stamp into binaries.
export GOFLAGS := $(shell go env GOFLAGS 2>/dev/null) -buildvcs=false

# Where Go gets modules from, for the stage of an image that compiles.
export GOPROXY := $(shell go env GOPROXY 2>/dev/null)
export GOSUMDB := $(shell go env GOSUMDB 2>/dev/null)

# Flags of "hasql demo": make demo DEMO="--hold"
DEMO ?=

# How many runs "make simulate" makes, or which: a number or a range. SEED replays a single one.
SEEDS ?= 1000
SEED ?=
# How long each fuzz target runs: make fuzz FUZZTIME=10m
FUZZTIME ?= 1m

.PHONY: help
help: ## Print this message
	@awk -F ':.*## ' '/^[a-z\/-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Flags of integration/chaos: make chaos CHAOS="-n 20 -seed 7 -kinds freeze,partition"
CHAOS ?=

.PHONY: demo
demo: go postgres ## Watch an application live through failovers, with a page in the browser (DEMO="--hold": you break it)
	@cd cmd/hasql && go build -o ../../bin/hasql .
	@bin/hasql demo $(DEMO)

# Docker Compose, whichever there is, with the images to build on.
COMPOSE = settings=$$(scripts/base-image.sh) && export $$settings && \
	if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi && $$compose

.PHONY: compose
compose: docker ## Start a cluster and an application in containers: http://localhost:8080 (docker compose down -v removes all)
	@$(COMPOSE) up -d --build

.PHONY: compose-images
compose-images: docker ## Build the images that "make compose" and "make compose-test" start
	@$(COMPOSE) build

.PHONY: compose-test
compose-test: go ## Break the cluster in containers in three ways (HASQL_COMPOSE_RUNS=5: kill its leader five times)
	@cd integration && HASQL_COMPOSE=1 go test -v -count 1 -timeout 20m ./compose

.PHONY: screenshots
screenshots: go postgres chromium ## Take the pictures of the demo's page in docs/
	@mkdir -p docs
	cd cmd/hasql/browser && HASQL_SCREENSHOTS=$(CURDIR)/docs go test -count=1 ./...

.PHONY: test
test: go postgres cc libpq netns ## Vet and test every module (MODULES="." for one of them)
	@scripts/test.sh $(MODULES)

.PHONY: lint
lint: go ## Run go vet, staticcheck, gofumpt, go fix and go mod tidy, and change nothing
	@cd tools && GOBIN=$(CURDIR)/bin go install tool
	@scripts/lint.sh $(MODULES)

.PHONY: simulate
simulate: go ## Run simulated failovers (SEEDS=100000, SEEDS=5..9) and every mutation, or one run (SEED=7)
	@go test -c -o bin/simulate .
	@SEEDS="$(SEEDS)" SEED="$(SEED)" bin/simulate -test.v -test.timeout 0 -test.run '^TestSimulate(Mutations)?$$'
.PHONY: fuzz
fuzz: go libpq ## Run every fuzz target of the root module in turn (FUZZTIME=10m for each)
	@scripts/fuzz.sh $(FUZZTIME)

.PHONY: cover
cover: go postgres ## Show which of the root package's functions its tests and those of integration/ run
	@mkdir -p bin
	@go test -coverprofile bin/cover-root . >/dev/null
	@cd integration && go test -coverpkg github.com/pghasql/hasql -coverprofile ../bin/cover-integration . >/dev/null
	@{ cat bin/cover-root; tail -n +2 bin/cover-integration; } >bin/cover
	@go tool cover -func bin/cover

.PHONY: bench
bench: go ## Run the benchmarks
	cd bench && go test -run xxx -bench . -benchtime 1s

# How often "make commits" breaks a master at its commits.
ROUNDS ?= 1000

.PHONY: commits
commits: go postgres ## Break the master at random commits and compare each verdict of InTx with the table (ROUNDS=1000)
	@cd integration && HASQL_REQUIRE_POSTGRES=1 HASQL_COMMIT_ROUNDS=$(ROUNDS) go test -v -timeout 0 -run '^TestEveryVerdictIsTrue$$' .

.PHONY: chaos
chaos: go postgres cc ## Break the master 100 times under load and check the promises (CHAOS="-n 20 -seed 7")
	@cd integration && go build -race -o ../bin/chaos ./chaos
	@bin/chaos $(CHAOS)

# Major versions of PostgreSQL, for make majors.
MAJORS ?= 13 14 15 16 17 18

.PHONY: majors
majors: go cc ## Run the core tests on each PostgreSQL that can be had (MAJORS="13 18")
	@scripts/majors.sh $(MAJORS)

.PHONY: fmt
fmt: go ## Format the code with gofumpt and modernise it with go fix
	@cd tools && GOBIN=$(CURDIR)/bin go install tool
	bin/gofumpt -w .
	@for module in $(MODULES); do (cd $$module && if [ -n "$$(go list ./... 2>/dev/null)" ]; then go fix ./...; fi) || exit; done

.PHONY: tidy
tidy: go ## Run go mod tidy in every module
	@for module in $(MODULES); do (cd $$module && go mod tidy) || exit; done

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin

# What the targets above need. Silent when it is there.

.PHONY: go
go:
	@command -v go >/dev/null || { echo "Go is missing: see https://go.dev/doc/install" >&2; exit 2; }
	@scripts/need.sh certs

.PHONY: docker
docker:
	@scripts/need.sh docker

.PHONY: postgres cc libpq netns chromium
postgres cc libpq netns chromium: go
	@scripts/need.sh $@
