# Everything sets itself up: `make demo` or `make test` in a fresh clone makes the virtual environment first.
# Stamp files remember what is installed, so the next start takes seconds.

PYTHON ?= python3
VENV ?= .venv
# The build of torch that is wanted. Its GPU libraries come in a step of their own: which they are, torch's own metadata
# say, and the CPU build has none, so their hashes cannot be in requirements.txt.
TORCH ?= $(shell grep '^torch==' constraints.txt)
PYTEST_ARGS ?=
# A file stays on one process, with what its tests share. PYTEST_ARGS="-n 0" runs all in one.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile
BENCH_ARGS ?=
FAULTS_ARGS ?=
FUZZ_ARGS ?=

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.stamp
DEV := $(VENV)/.stamp-dev
PIP := $(BIN)/python -m pip install --quiet
LOCK := pyproject.toml constraints.txt requirements.txt requirements-dev.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo bench faults fuzz setup test test-unit lint types imports check docs docs-serve licences sbom audit clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON ($(PYTHON)), VENV ($(VENV)), PYTEST_ARGS, BENCH_ARGS, FAULTS_ARGS, FUZZ_ARGS."

demo: $(RUNTIME) ## compare LoRA with full fine-tuning on the bundled base; ends with a report page
	$(BIN)/lowregret compare --config recipes/demo.toml --out runs/demo

bench: $(DEV) ## the same work by PEFT, TRL and transformers beside ours; BENCH_ARGS="--model FOLDER --data FOLDER"
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

faults: $(DEV) ## a fault at every file operation of small runs, which must lose nothing (about an hour; goes on)
	$(BIN)/python -m benchmarks.faults $(FAULTS_ARGS)

setup: $(DEV) ## make the virtual environment with everything that development needs

test: $(DEV) ## run every tier of the tests, file by file on all cores
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS) tests

test-unit: $(DEV) ## run the unit tier only (under two minutes)
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS) tests/unit

fuzz: $(DEV) ## spoilt files of every kind, each read by a command of its own; FUZZ_ARGS="--inputs 5000 --seed 0"
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

lint: $(DEV) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## mypy, strict
	$(BIN)/mypy

imports: $(DEV) ## the arrows between the layers
	$(BIN)/lint-imports --no-logo

check: lint types imports ## lint, types and imports

docs: $(DEV) ## build the documentation in both languages, strictly: build/site/index.html
	$(BIN)/python tools/site.py

docs-serve: docs ## show it at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

licences: $(DEV) ## write docs/licences.md: every package that set-up installs, with its licence
	$(BIN)/python tools/licences.py

sbom: $(DEV) ## write build/sbom.json: what is installed, as CycloneDX
	$(BIN)/python tools/sbom.py

audit: ## look up known vulnerabilities of the pinned packages (needs a network; no part of CI)
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit; }
	.venv-audit/bin/pip-audit --disable-pip --require-hashes -r requirements.txt -r requirements-dev.txt

clean: ## remove caches and build products; keeps runs/ and the virtual environment
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the virtual environments
	rm -rf .venv .venv-ci .venv-audit

# --- set-up -----------------------------------------------------------------------------------------------------------

define CHECK_PYTHON
@command -v $(PYTHON) >/dev/null 2>&1 || { \
	echo "lowregret needs Python 3.11 or newer, and '$(PYTHON)' is not there. Name one: make PYTHON=python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "lowregret needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
		"Name another: make PYTHON=python3.12" >&2; exit 1; }
endef

# An environment that is already there is kept as it is.
$(BIN)/python:
	$(CHECK_PYTHON)
	@echo "Making the virtual environment $(VENV) (once; a few minutes and about 2 GB)."
	@$(PYTHON) -m venv $(VENV)

# torch comes by itself: pip takes the build that it prefers (a CPU build where one is at hand), and its hash is checked
# next. In one step pip would take PyPI's, with GPU libraries, because only an index tells hashes before the download.
# Order-only: the interpreter is a link whose date says nothing about what is installed.
$(RUNTIME): $(LOCK) | $(BIN)/python
	@echo "Installing what lowregret needs to run."
	@$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/torch '$(TORCH)'
	@awk '/^torch==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.txt > $(VENV)/torch/hashes.txt
	@$(PIP) --require-hashes --no-deps --no-index --find-links $(VENV)/torch -r $(VENV)/torch/hashes.txt
	@rm -rf $(VENV)/torch
	@$(PIP) --require-hashes --no-deps -r requirements.txt
	@$(PIP) -c constraints.txt '$(TORCH)'
	@$(PIP) --no-deps -e .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing what the tests and checks need."
	@$(PIP) --require-hashes --no-deps -r requirements-dev.txt
	@touch $@
