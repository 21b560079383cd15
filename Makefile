# One entry for each chore, the same here and in .ci/run. Needs Python >= 3.11 (with venv), git and make.
#
#   make test PYTHON=python3.12           another interpreter for the environment
#   make test VENV=/path/to/env STAMP=    an environment that is already there; nothing is installed
#   make bench MINUTES=2                  stop each fit of scikit-learn and torch after 2 minutes, not 30

PYTHON ?= python3
VENV ?= .venv
STAMP ?= $(VENV)/.installed
RESULTS ?= results
MINUTES ?= 30
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint types bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## create the environment and install the pinned dependencies (the others do it on their own)

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "rvqprobe needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { \
		echo "cannot create $(VENV): on Debian and Ubuntu install python3-venv, then run make again" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## synthetic corpus, store, probes, figures: under 5 minutes, no downloads
	$(BIN)/python cli.py demo --output $(RESULTS)

test: $(STAMP) ## the default tests, with coverage (about 15 minutes on 2 cores)
	$(BIN)/python -m pytest -q -m "not slow and not gpu" \
		--cov=featstore --cov=probes --cov=schemas --cov-report=term --cov-fail-under=90

test-slow: $(STAMP) ## the long tests that `make test` leaves out
	$(BIN)/python -m pytest -q -m "slow and not gpu"

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(STAMP) ## mypy: strict for schemas and featstore
	$(BIN)/python -m mypy

bench: $(STAMP) ## every benchmark, one JSON record each: up to 8 hours, about one with MINUTES=2
	@set -e; for script in $(wildcard benchmarks/[a-z]*.py); do \
		case "$$script" in *_vs_sklearn.py) limit="--minutes $(MINUTES)" ;; *) limit= ;; esac; \
		$(BIN)/python "$$script" $$limit; done

clean: ## remove caches and build products; environment and results stay
	rm -rf build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
