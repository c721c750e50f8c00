# One command per job. Each makes its own .venv from the hash-pinned lock; nothing else is needed but
# make and a Python of 3.11 or newer (`make test PYTHON=python3.12` to choose one).

# Without bytecode every process compiles lancedb again: four seconds instead of one and a half.
unexport PYTHONDONTWRITEBYTECODE

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON  ?= python3
WORKERS ?= 2
SEEDS   ?= 0..119
RANDOM_SEEDS ?= 30
UV      ?= uv
BIN     := .venv/bin
LOCK    := .ci/requirements.lock

.PHONY: help demo test check bench soak lock clean

help:  ## What can be made
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name what; do \
	    printf '  make %-7s %s\n' "$$name" "$$what"; done

# INPUT reaches the recipe through the environment, where no character of a file's name means anything.
demo: export INPUT := $(INPUT)
demo: .venv/package.stamp  ## A small fleet works offline and comes back (INPUT=path of 40 texts or more, S3=1 archives to a local S3)
	@$(BIN)/python -m simulations.demo $(if $(value INPUT),--input "$$INPUT") $(if $(S3),--s3)

test: check  ## The checks, every test (WORKERS=2, ARGS='-k name'), and simulated fleets of fixed and of random seeds
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)
	@$(if $(ARGS),,$(BIN)/python -m simulations sweep --scenario erasures --seeds 0..23 --jobs $(WORKERS))
	@$(if $(ARGS),,$(BIN)/python -m simulations sweep --seeds $(SEEDS) --random $(RANDOM_SEEDS) --jobs $(WORKERS))

check: .venv/package.stamp  ## Lint, format, types, layers: what to run before a commit
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@layers=$$($(BIN)/lint-imports --no-logo) || { echo "$$layers"; exit 1; }; tail -n 1 <<<"$$layers"

bench: .venv/package.stamp  ## Measure it here, as JSON (ONLY=name for one benchmark)
	@$(BIN)/python -m simulations.benchmarks $(if $(ONLY),--only '$(ONLY)')

# Each command on a line of its own, all of them in full: an hour or two.
soak: .venv/package.stamp  ## What is too long for a test: 5,000 simulated fleets, planted bugs, crashes of every kind (needs strace)
	@$(BIN)/python -m simulations sweep --scenario erasures --seeds 0..999 --jobs $(WORKERS)
	@$(BIN)/python -m simulations sweep --seeds 0..4999 --jobs $(WORKERS)
	@$(BIN)/python -m simulations mutants --jobs $(WORKERS)
	@$(BIN)/python -m simulations sweep --scenario budgets --seeds 0..199 --jobs $(WORKERS)
	@$(BIN)/python -m simulations sweep --scenario policies --seeds 0..499 --jobs $(WORKERS)
	@$(BIN)/python -m simulations sweep --scenario models --seeds 0..499 --jobs $(WORKERS)
	@$(BIN)/python -m simulations run --scenario metered
	@$(BIN)/python -m simulations run --scenario rollout
	@$(BIN)/python -m simulations scale
	@$(BIN)/python -m simulations.crash all --jobs $(WORKERS)

# Resolves for every platform and writes names, versions and hashes, never where they came from. A private
# index or mirror is uv's business, through its environment: UV_DEFAULT_INDEX, UV_INDEX, UV_FIND_LINKS.
# Versions already locked stay; ARGS=--upgrade renews them all, ARGS='--upgrade-package name' one.
lock:  ## Pin the dependencies in pyproject.toml again (needs uv; ARGS=--upgrade)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv (UV=path/to/uv)" >&2; exit 1; }
	@$(UV) pip compile pyproject.toml --quiet --universal --generate-hashes --python-version 3.11 \
	    --all-extras --no-emit-index-url --no-header $(ARGS) --output-file $(LOCK)
	@echo "$(LOCK): $$(grep -c '^[a-z].*==' $(LOCK)) pins"

clean:  ## Remove what make and the tools have made
	rm -rf .venv build dist agentdb_edge.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find edge cloud sync simulations tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps, because the settings in pyproject.toml change often and the lock seldom does.
.venv/lock.stamp: $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "AgentDB Edge needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
	         "Choose one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the locked dependencies into .venv (about a minute, once) ..."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r $(LOCK)
	@touch $@

.venv/package.stamp: .venv/lock.stamp pyproject.toml
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@
