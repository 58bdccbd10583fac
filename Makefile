# The first argument wins: make PYTHON=python3.12 demo
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check
SCHEMA := workflow/schemas/config.schema.json
# Threads that wait for each other leave the core to the tests beside them.
PYTEST := OMP_WAIT_POLICY=passive .venv/bin/python -m pytest -n logical --maxprocesses 4

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test thorough check fix schema lock clean FORCE

# The scripts in a virtual environment hold its full path, so one that was copied along with the project is made anew.
PLACE := $(shell cat .venv/.stamp-runtime 2>/dev/null)
ifneq ($(PLACE),)
ifneq ($(PLACE),$(CURDIR))
CLEAR := --clear
.venv/.stamp-runtime: FORCE
endif
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

env: .venv/.stamp-runtime ## build the environment in .venv alone

demo: .venv/.stamp-runtime ## run the workflow on the generated data set
	.venv/bin/snakemake
	@echo "The report is $(CURDIR)/results/blobs/report/report.html"

test: check ## everything CI runs
	$(PYTEST) --dist loadfile --no-loadscope-reorder -m "not thorough"

thorough: .venv/.stamp-dev ## every change, kill and walk that workflows are tried on, to its end: an hour
	$(PYTEST) -m thorough

check: .venv/.stamp-dev ## format, lint, types and import layers, without changing a file
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/mypy
	.venv/bin/lint-imports

fix: .venv/.stamp-dev schema ## format, mend what can be mended, write the config's schema
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	.venv/bin/snakefmt Snakefile workflow

schema: .venv/.stamp-runtime
	.venv/bin/python -c 'import json, pathlib; from behindthenoise.config import schema; \
	    pathlib.Path("$(SCHEMA)").write_text(json.dumps(schema(), indent=2) + "\n")'

lock: ## write lock files and envs after a change in pyproject.toml; newest versions with UPGRADE=--upgrade
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(UPGRADE) --upgrade-strategy eager --editable '.[dev]'
	.venv/bin/python tools/lock.py

clean: ## remove the environment and all caches; results stay
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools bench -name __pycache__ -prune -exec rm -rf {} +

.venv/.stamp-runtime: requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not there; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "Installing into .venv, which takes some minutes (on Linux torch brings its CUDA libraries, several GB)"
	"$(PYTHON)" -m venv $(CLEAR) .venv
	$(PIP) install --quiet --requirement requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@echo "$(CURDIR)" > $@

.venv/.stamp-dev: .venv/.stamp-runtime requirements-dev.lock
	$(PIP) install --quiet --requirement requirements-dev.lock
	@touch $@
