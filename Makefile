# One word per chore. `make demo` and `make test` install what they need by themselves.
PYTHON ?= python3.11
VENV := .venv
STUDIO_VENV := .venv-studio
BIN := $(VENV)/bin
# each has a Label Studio server of its own and takes up to 2 GB of memory
TEST_PROCESSES ?= 2
# a test process that dies is a failure at once: xdist would start another and may then wait for ever
SPREAD = -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
PIP_FLAGS := --quiet --disable-pip-version-check
# many processes are started: without bytecode beside the sources each of them compiles every module anew
unexport PYTHONDONTWRITEBYTECODE
# where tests and `groundswell up` find the Label Studio server
export GROUNDSWELL_STUDIO_VENV := $(CURDIR)/$(STUDIO_VENV)

.PHONY: help install install-dev demo test engines fuzz soak lint audit format docs site bench clean

help:  ## list the chores
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.run-stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.dev-stamp: $(VENV)/.run-stamp
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

$(STUDIO_VENV)/.stamp: constraints-studio.txt
	$(PYTHON) -m venv $(STUDIO_VENV)
	$(STUDIO_VENV)/bin/python -m pip install $(PIP_FLAGS) -c constraints-studio.txt label-studio
	@touch $@

install: $(VENV)/.run-stamp $(STUDIO_VENV)/.stamp  ## groundswell in .venv, the Label Studio server in .venv-studio

install-dev: install $(VENV)/.dev-stamp  ## … and what tests and benchmarks need

demo: install  ## the whole loop on a sample set: Label Studio, backend, worker, a project to label
	$(BIN)/groundswell demo $(ARGS)

test: install-dev  ## all tests (a real Label Studio and, where it is there, Chromium), two processes at a time
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

engines: install-dev  ## the tests of the worker on Postgres and S3, where `make test` takes SQLite and local files
	GROUNDSWELL_TEST_DATABASE=postgres GROUNDSWELL_TEST_ARTIFACTS=s3 $(BIN)/python -m pytest $(SPREAD) tests/sync $(ARGS)

fuzz: install-dev  ## the tests that throw odd input at every edge, with 50 times the examples; says how many were tried
	GROUNDSWELL_FUZZ=50 $(BIN)/python -m pytest $(SPREAD) --timeout 3600 --hypothesis-show-statistics $$(grep -rl 'from tests.fuzzing import' tests) $(ARGS)

soak: install-dev  ## three hours: 1,000 kills at random moments, then two hours of work with a memory curve
	$(BIN)/python -m tests.chaos $(ARGS)

lint: install-dev  ## ruff and mypy, and what is known of the pinned packages (told, never a failure)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py --report-only constraints.txt constraints-studio.txt

audit: install-dev  ## known vulnerabilities of the pinned packages; needs the internet, and says so where it is not there
	$(BIN)/python .ci/audit.py constraints.txt constraints-studio.txt

format: install-dev  ## let ruff write the formatting
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install-dev  ## write the pages that are made from the code: docs/cli.md and docs/settings.md
	PYTHONPATH=. $(BIN)/python docs/make_cli.py
	PYTHONPATH=. $(BIN)/python docs/make_settings.py

site: install-dev  ## the documentation as web pages in site/; a broken link or anchor stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

bench: install-dev  ## benchmarks in their quick forms, one JSON line per figure (their --help says what the long forms take)
	$(BIN)/python -m bench.brush --quick
	$(BIN)/python -m bench.clustering --sizes 5000 20000 --seeds 1
	$(BIN)/python -m bench.economy --quick
	$(BIN)/python -m bench.clicks --quick
	$(BIN)/python -m bench.boxes --quick
	$(BIN)/python -m bench.train --quick
	$(BIN)/python -m bench.weak --quick
	$(BIN)/python -m bench.infer --quick
	$(BIN)/python -m bench.learners --quick
	$(BIN)/python -m bench.segmentation --quick
	$(BIN)/python -m bench.pool_lookup --quick
	$(BIN)/python -m bench.sync --quick
	$(BIN)/python -m bench.executor --quick

clean:  ## remove environments, caches and the demo's data
	rm -rf $(VENV) $(STUDIO_VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis groundswell-data site
