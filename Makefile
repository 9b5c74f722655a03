# Saccade. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TOOLS := $(or $(SACCADE_TOOLS),.tools)
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(TOOLS)/bin:$(PATH)
PYTEST := $(BIN)/pytest
# In CI a test that fails is tried once more, and listed as RERUN: a busy machine's hiccup stops no change, and is seen.
RERUNS := $(if $(CI),--reruns 1 --reruns-delay 2)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# The code is installed in place; only a change of the dependencies installs again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Saccade needs Python 3.11 or later: make PYTHON=/path/to/python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "Python can not make virtual environments here; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo 'installing into $(VENV): PyTorch and the rest, some minutes and 6 GB'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: install
install: $(INSTALLED) ## Install everything into .venv

.PHONY: tools
tools: ## Install the engines and programs that tests need (Milvus, MinIO, Chromium)
	bash scripts/tools.sh milvus minio chromium

.PHONY: buf
buf:
	@bash scripts/tools.sh buf

.PHONY: demo
demo: $(INSTALLED) ## Start the stack, load the gallery, print the address and sample searches, stay until Ctrl-C
	$(BIN)/python -m services.stack demo

.PHONY: run
run: $(INSTALLED) ## Start the stack alone, stay until Ctrl-C
	$(BIN)/python -m services.stack run

.PHONY: smoke
smoke: $(INSTALLED) ## One search of each kind on a fresh stack (SMOKE_ENGINES=real: on Milvus and MinIO)
	$(BIN)/python -m services.stack smoke

.PHONY: eval
eval: $(INSTALLED) ## Measure retrieval, segmentation and tags through the services
	$(BIN)/python -m benchmarks.evaluate

.PHONY: tune
tune: $(INSTALLED) ## Calibrate scores and choose the weights of the ranking (build/tuning.json)
	$(BIN)/python -m benchmarks.tune_ranking

.PHONY: recall
recall: $(INSTALLED) tools ## Measure the recall of the index against exact search (build/recall.json)
	$(BIN)/python -m benchmarks.recall

.PHONY: overload
overload: $(INSTALLED) ## Offer ten times what can be answered, and bulk work beside people (QUICK=1; build/overload.json)
	$(BIN)/python -m benchmarks.overload

.PHONY: test
test: $(INSTALLED) tools ## All tests but those of faults, which take longer (test-faults)
	$(PYTEST) $(RERUNS) --ignore=tests/faults tests

.PHONY: test-unit
test-unit: $(INSTALLED) ## Tests of single parts, under a minute
	$(PYTEST) tests/unit

.PHONY: test-integration
test-integration: $(INSTALLED) tools ## Tests against real engines, and of the contracts
	$(PYTEST) tests/integration tests/contract

.PHONY: test-e2e
test-e2e: $(INSTALLED) tools ## The whole stack: smoke, kill and restart, the page in a browser
	$(PYTEST) tests/e2e

.PHONY: test-gpu
test-gpu: $(INSTALLED) ## Tests that need a CUDA device
	$(PYTEST) tests/gpu

.PHONY: test-faults
test-faults: $(INSTALLED) tools ## Full disks, cut networks, denied writes, rolling restarts (QUICK=1: about 5 minutes)
	$(PYTEST) tests/faults

.PHONY: chaos
chaos: $(INSTALLED) tools ## Kill everything again and again under load; nothing may be lost (QUICK=1; build/faults.json)
	$(BIN)/python -m benchmarks.chaos

.PHONY: soak
soak: $(INSTALLED) tools ## Ordinary load for MINUTES=30; nothing may grow (build/soak.json)
	$(BIN)/python -m benchmarks.soak

.PHONY: lint
lint: $(INSTALLED) buf ## Formatting, style, types, dependencies between packages, contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TOOLS)/bin/buf lint proto
	$(TOOLS)/bin/buf format --diff --exit-code proto
	$(BIN)/python -m scripts.generate_stubs --check

.PHONY: audit
audit: $(INSTALLED) ## Known weaknesses of the pinned dependencies; status 2 where not all could be looked up
	bash scripts/tools.sh audit
	$(BIN)/python -m scripts.audit

.PHONY: format
format: $(INSTALLED) ## Format code and contracts
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	if test -x $(TOOLS)/bin/buf; then $(TOOLS)/bin/buf format -w proto; fi

.PHONY: proto
proto: $(INSTALLED) ## Generate the Python code of the contracts
	$(BIN)/python -m scripts.generate_stubs

.PHONY: constraints
constraints: $(INSTALLED) ## Pin the versions that are installed now
	$(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' > constraints.txt

.PHONY: clean
clean: ## Remove what builds and tests left; data and tools stay
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
