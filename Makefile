# Everything sets itself up: `make demo` or `make test` in a fresh clone makes the virtual environment first.
# Stamp files remember what is installed, so the next start takes seconds.

PYTHON ?= python3
VENV ?= .venv
# Its own step and pinned: a range would fetch newer builds, with several GB of GPU libraries, only to replace them.
TORCH ?= $(shell grep '^torch==' constraints.txt)
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?=

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.stamp
DEV := $(VENV)/.stamp-dev
PIP := $(BIN)/python -m pip install --quiet
LOCK := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo bench setup test test-unit fuzz lint types imports check clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON ($(PYTHON)), VENV ($(VENV)), PYTEST_ARGS, BENCH_ARGS, FUZZ_ARGS."

demo: $(RUNTIME) ## compare LoRA with full fine-tuning on the bundled base; ends with a report page
	$(BIN)/lowregret compare --config recipes/demo.toml --out runs/demo

bench: $(DEV) ## the same work by PEFT, TRL and transformers beside ours; BENCH_ARGS="--model FOLDER --data FOLDER"
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

setup: $(DEV) ## make the virtual environment with everything that development needs

test: $(DEV) ## run every tier of the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests

test-unit: $(DEV) ## run the unit tier only (under two minutes)
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/unit

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

clean: ## remove caches and build products; keeps runs/ and the virtual environment
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the virtual environments
	rm -rf .venv .venv-ci

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

# Order-only: the interpreter is a link whose date says nothing about what is installed.
$(RUNTIME): $(LOCK) | $(BIN)/python
	@echo "Installing what lowregret needs to run."
	@$(PIP) '$(TORCH)'
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing what the tests and checks need."
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
