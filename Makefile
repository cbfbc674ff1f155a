# SPDX-License-Identifier: Apache-2.0
# make demo   real documents through Airflow and Prefect, on the sandbox
# make test   linters, type checker and all tests
# Both install what they need into .venv first. After that they need no network.
# make test-versions   try older and newer releases of Airflow and Prefect (VERSIONS="airflow-3.0.6 ...";
#   VERSIONS=--resolve asks whether the requirements fit together on each Python); this needs the
#   package index the first time
# make test-cluster   run it on several hosts that share nothing, and kill some of them (about 25
#   minutes; CLUSTER=short, CLUSTER="prefect host_killed" and so on); its own environment
# make benchmark   measure the token module beside others (its own environment, about 5 minutes)
# make benchmark-airflow, make benchmark-prefect   measure the orchestrators' sides (40 and 15 minutes)
# make benchmark-tables   measure tables of results (2 minutes)
# make benchmark-scale    measure what other people's transactions cost, and our own documents beside
#   a bare loop (20 minutes)

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-benchmark
CLUSTER_VENV := .venv-cluster
EXTRAS := airflow,prefect,sandbox,tables,dlt
# Processes that run tests at the same time. Those of the orchestrators wait most of their time.
WORKERS := 6

# The first Python that this package and both orchestrators run on. Set PYTHON to choose another.
CANDIDATES := python3 python3.11 python3.12 python3.13 python3.14 python3.10
SUITS := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c '$(SUITS)' 2>/dev/null && echo "$$p" && break; done)

.PHONY: demo test test-versions test-cluster lint types pytest install benchmark benchmark-airflow benchmark-prefect benchmark-tables benchmark-scale clean

demo: install
	@exec $(BIN)/python demo/run.py $(DEMO)

# The type checker works beside the tests, which wait now and then.
test: lint
	@$(MAKE) --no-print-directory --jobs=2 types pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy
# No test runs these programs, so nobody would notice a name that has gone.
	@for each in benchmarks/*/run.py demo/run.py docs/images/make.py tests/cluster/*_scenarios.py; do \
	  MYPYPATH=tests:benchmarks/airflow:benchmarks/prefect:$${each%/*} $(BIN)/mypy $$each || exit 1; \
	done

# Most processes that tests start write no bytecode; they find it.
pytest: install
	@$(BIN)/python -m compileall -q vantage_orchestration
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope $(PYTEST)

test-versions: install
	@$(BIN)/python tests/versions/run.py $(VERSIONS)

test-cluster: $(CLUSTER_VENV)/.installed
	@exec $(CLUSTER_VENV)/bin/python tests/cluster/run.py $(CLUSTER)

install: $(VENV)/.installed

# The stamp is written last: an installation that was cut short is made anew.
$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.14 with venv and pip is needed (on Debian: python3-venv). Set PYTHON=/path/to/python3." >&2; exit 1; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version); the first time takes a few minutes."
	@rm -f $@
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --group test --editable '.[$(EXTRAS)]'
	@touch $@

benchmark: $(BENCH_VENV)/.installed
	@exec $(BENCH_VENV)/bin/python benchmarks/token/run.py $(BENCHMARK)

benchmark-scale: $(VENV)/.plots
benchmark-airflow benchmark-prefect benchmark-tables benchmark-scale: install
	@exec $(BIN)/python $(@:benchmark-%=benchmarks/%)/run.py $(BENCHMARK)

$(VENV)/.plots: $(VENV)/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group benchmark
	@touch $@

$(BENCH_VENV)/.installed: pyproject.toml constraints.txt benchmarks/token/requirements.txt
	@rm -f $@
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement benchmarks/token/requirements.txt --no-build-isolation --editable .
	@touch $@

$(CLUSTER_VENV)/.installed: $(VENV)/.installed
	@rm -f $@
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(CLUSTER_VENV)
	@$(BIN)/uv pip install --quiet --python $(CLUSTER_VENV)/bin/python --constraint constraints.txt setuptools
	@$(BIN)/uv pip install --quiet --python $(CLUSTER_VENV)/bin/python --constraint constraints.txt --no-build-isolation --group cluster --editable '.[airflow,prefect,sandbox]'
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) $(CLUSTER_VENV) .venv-versions build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
