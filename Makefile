# Every target uses .venv in this folder and makes it when it is missing. A second run is quick.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Set PYTHON=/path/to/python to choose another interpreter for the environment.
PYTHON ?=
CANDIDATES := $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python

.PHONY: help demo test timing shells typescript lint format bench soak deep wheel install clean browser screenshots

help:
	@echo "make demo    an engine, a worker and a workflow, in one go"
	@echo "make test    lint, types, then every test"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff lay out the code"
	@echo "make typescript  build and test the example worker in TypeScript (needs node and npm)"
	@echo "make bench   the benchmarks"
	@echo "make timing  the tests again that have limits of time, now strict ones"
	@echo "make soak    kill engines and workers for MINUTES=10, with SEED=..., BACKEND=postgres, ENGINES=2"
	@echo "make deep    the tests that make up their cases, with many more of them"
	@echo "make screenshots  the pictures of docs/images, made again"
	@echo "make wheel   build dist/*.whl"
	@echo "make clean   remove the environment and everything built"

install: $(STAMP)

demo: $(STAMP)
	@$(BIN)/assay demo

# Most tests wait more than they compute: several processes share them, and one that a busy machine failed is tried once
# more (the summary counts it).
JOBS ?= 6
test: lint shells browser
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --reruns 1 -r R

# How quick it is, with the strict limits of time: for a machine that does nothing else.
timing: $(STAMP)
	@ASSAY_TEST_TIMED=1 $(BIN)/python -m pytest -m "timed or measured"

lint: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "error: run 'make format', ruff wants another layout" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary

format: $(STAMP)
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

# Install Debian packages; only a failure shows what apt said. Another apt that is at work is waited for.
APT := DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3
apt = { said=$$(mktemp); { $(APT) update && $(APT) install --no-install-recommends $(1); } >"$$said" 2>&1 || \
  { tail -5 "$$said" >&2; false; }; }

# The shells whose completion scripts the tests try out. Without root or apt the tests go without the missing ones, and
# say so.
COMPLETED_SHELLS := zsh fish elvish
shells:
	@missing=""; for shell in $(COMPLETED_SHELLS); do command -v $$shell >/dev/null || missing="$$missing $$shell"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; $(call apt,$$missing) && exit 0; \
	fi; \
	echo "warning: no$$missing on this machine: their completion scripts will not be tried out" >&2

# The browser in which the dashboard is tested.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	[ -n "$${ASSAY_CHROMIUM:-}" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium"; $(call apt,chromium fonts-dejavu-core) && exit 0; \
	fi; \
	echo "error: the tests of the dashboard need Chromium; install it, or name one with ASSAY_CHROMIUM=/path" >&2; exit 1

screenshots: $(STAMP) browser
	@$(BIN)/python tests/browser/screenshots.py

typescript: $(STAMP)
	@$(BIN)/python -m pytest tests/typescript_worker.py

# For example: make bench BENCH="--only W1,W3 --repeat 3"
BENCH ?=
bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(BENCH)

# For example: make soak MINUTES=30 SEED=7, or make soak BACKEND=postgres ENGINES=2
MINUTES ?= 10
SEED ?=
BACKEND ?= sqlite
ENGINES ?=
soak: $(STAMP)
	@ASSAY_STORM_SECS=$$(($(MINUTES) * 60)) ASSAY_STORM_SEED=$(SEED) ASSAY_STORM_BACKEND=$(BACKEND) \
	  ASSAY_STORM_ENGINES=$(ENGINES) $(BIN)/python -m pytest -s tests/test_kill_storm.py

# The tests that make up their cases, with many more of them: some half an hour.
deep: $(STAMP)
	@ASSAY_SOAK=1 ASSAY_ORACLE_HISTORIES=2000 ASSAY_REPLAY_PROGRAMS=60 $(BIN)/python -m pytest tests/points tests/test_oracle.py \
	  tests/test_replay_equality.py tests/test_contract_under_faults.py tests/test_api_fuzz.py

wheel: $(STAMP)
	@rm -rf build dist
	@$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installed as an editable package, so that $(BIN)/assay is the checkout. Renewed when the metadata changes.
$(STAMP): pyproject.toml setup.cfg
	@if [ ! -x $(BIN)/python ]; then \
	  for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      echo "making $(VENV) with $$("$$candidate" --version)"; "$$candidate" -m venv $(VENV); break; \
	    fi; \
	  done; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "error: Python 3.11 or newer with the venv module is needed; install it or say make PYTHON=/path/to/python" >&2; exit 1; \
	fi
	@echo "installing assay and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
