# The only entry point. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
UV_VERSION := 0.13.9
MODE ?= lora
GPUS_PER_POD ?=
KEEP ?=
CLUSTER ?= dev
PYTEST_ARGS ?=
NANO_ARGS ?=
SIMULATE_ARGS ?=

.PHONY: help prerequisites setup binaries demo test check lint types fmt sync verify golden nano bench simulate e2e images clean

help: ## list the targets
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

prerequisites:
	@bash scripts/prerequisites.sh

$(STAMP): requirements/dev.txt requirements/demo.txt requirements/uv.txt pyproject.toml | prerequisites
	@bash scripts/environment.sh $(VENV)
	@touch $@

setup: $(STAMP) binaries ## Python environment and control-plane binaries (cold about 25 min, warm seconds)

binaries: $(STAMP)
	@$(PY) -m devcluster build

demo: $(STAMP) ## the main job on real clips: MODE=full for two pods, GPUS_PER_POD=2 for one with two processes, KEEP=1 leaves the cluster up (under 5 min)
	@$(PY) -m devcluster build kubernetes etcd versitygw training-operator helm
	@$(PY) -m demo --mode $(MODE) --cluster $(CLUSTER) $(if $(KEEP),--keep) $(if $(GPUS_PER_POD),--gpus-per-pod $(GPUS_PER_POD))

test: setup ## all tests, the end-to-end ones included (about an hour on 2 cores; PYTEST_ARGS=tests/api for a part)
	@$(PY) -m $(if $(PYTEST_ARGS),pytest $(PYTEST_ARGS),tests.at_once)

check: lint types verify ## everything that needs no test run

lint: $(STAMP) ## format, ruff, import contracts
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check .
	@$(VENV)/bin/lint-imports

types: $(STAMP) ## mypy strict
	@$(VENV)/bin/mypy

fmt: $(STAMP) ## format and mend what ruff can
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

sync: $(STAMP) ## write CRD, chart schema and reference pages from the types
	@$(PY) -m mochi_codegen sync

verify: $(STAMP) ## fail when a generated file differs from the types
	@$(PY) -m mochi_codegen verify

golden: setup ## rewrite the golden files; then read the diff
	@UPDATE_GOLDEN=1 $(PY) -m pytest tests/operator tests/chart tests/trainer/train -q

nano: $(STAMP) ## train the small model of the demo anew, on the CPU (about 45 min on 2 cores)
	@$(PY) -m demo.nano $(NANO_ARGS)

bench: $(STAMP) ## measurements (not part of the tests)
	@for file in tests/bench/*.py; do echo "== $$file"; $(PY) $$file; done

simulate: $(STAMP) ## 20,000 seeds of the simulated cluster (about 45 min of one core); `make test` has 500
	@$(PY) -m tests.simulation --seeds 20000 $(SIMULATE_ARGS)

e2e: setup ## only the end-to-end tests
	@$(PY) -m pytest tests/e2e $(PYTEST_ARGS)

images: prerequisites ## build both images with buildah (docs/how-to/build-images.md)
	@bash tests/images/build.sh

clean: ## stop what a broken run left, remove the environment, outputs and the demo's kept data (not the caches)
	@if [ -x $(PY) ]; then $(PY) -m demo clean; fi
	@rm -rf $(VENV) demo-out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
