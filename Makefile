# Every target sets up what it needs; nothing is expected but make, git and a python3 of 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements/constraints.txt
SOURCES := pyproject.toml requirements/constraints.txt

# Stamps: installed again only when what is asked for changes. The full set-up holds the light one.
LIGHT := $(VENV)/.installed-light
FULL := $(VENV)/.installed-full

# More threads than cores make torch spin; two are what every machine has.
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow kernels lint types format check quickstart demo docs bench bounds versions fuzz sbom audit clean

# Of `make bounds` and `make versions`: extras that are installed, and more of them: make versions EXTRAS=sim.
EXTRAS ?=
comma := ,
TRIED := analysis,demo,formats,dinov2,diffusion$(if $(EXTRAS),$(comma)$(EXTRAS))
# Of `make bounds`: what is left free (a torch that has a wheel here).
BUT ?= none

# Of `make fuzz`, for each file that it begins with.
SECONDS ?= 60

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dila needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(LIGHT): $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[pusht]'
	@touch $@

$(FULL): $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[dev,docs,sim,dinov2,diffusion]'
	@touch $(LIGHT) $@

setup: $(FULL)  ## install the package with all that its tests need, into .venv

# A process a core with one thread each: two threads on small tensors mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: setup  ## run the tests, the minutes-long ones left out; on Linux those of the GPU kernels in Triton's interpreter
	$(PYTEST) -m "not slow"
ifeq ($(shell uname -s),Linux)
	@$(MAKE) --no-print-directory kernels
endif

# Beside the environment, not in it: nothing but these tests needs either package.
TRITON := .venv-triton

$(TRITON)/.installed: requirements/triton.txt | $(BIN)/python
	rm -rf $(TRITON)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target $(TRITON) -r $<
	@touch $@

kernels: setup $(TRITON)/.installed  ## test the GPU kernels without a GPU, and that they fit its registers (Linux)
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON) $(PYTEST) -W ignore::DeprecationWarning tests/nn/test_triton_*.py
	@mkdir -p build
	PYTHONPATH=$(TRITON) $(BIN)/python benchmarks/registers.py > build/registers.jsonl

test-slow: setup  ## run the minutes-long tests
	$(BIN)/python -m pytest -m slow

lint: setup  ## ruff and the contract of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup  ## pyright
	$(BIN)/pyright

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test  ## all that a change must pass

quickstart: $(LIGHT)  ## record Push-T, train the tiny recipe, measure it, write one page
	$(BIN)/dila quickstart

demo: $(LIGHT)  ## play the model in the box, in the browser
	$(INSTALL) -e '.[demo]'
	$(BIN)/dila demo

docs: $(LIGHT)  ## build the documentation, strictly, into site/
	$(INSTALL) -e '.[docs]'
	$(BIN)/python docs/architecture.py
	$(BIN)/python -m mkdocs build --strict

bench: setup  ## run every benchmark that needs no GPU; each prints JSON with its baseline
	@set -e; for name in data load speed; do echo "$$name"; $(BIN)/python "benchmarks/$$name.py"; done

# The tests of all that needs no simulator in the environment $(1) of their own, installed under the pins of $(2).
define own_tests
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -c $(2) -e '.[$(TRIED)]' \
		pytest pytest-timeout beartype hypothesis psutil
	$(1)/bin/python -m pytest -m "not slow" tests/nn tests/model tests/interop tests/train tests/vision tests/imagine \
		tests/data tests/planning tests/metrics tests/baselines tests/analysis tests/evaluate tests/recipes tests/demo tests/cli
endef

bounds:  ## run the tests under the lowest versions that pyproject.toml promises (the highest: make test)
	@mkdir -p build
	$(PYTHON) requirements/lowest.py dev,$(TRIED) --but $(BUT) > build/lowest.txt
	$(call own_tests,.venv-lowest,build/lowest.txt)

versions:  ## run the tests under another Python: make versions PYTHON=python3.13
	$(call own_tests,.venv-$(notdir $(PYTHON)),requirements/constraints.txt)

fuzz: setup  ## search for files that break the readers, SECONDS each, with a fuzzer that sees the lines they reach (Linux)
	$(INSTALL) atheris
	$(BIN)/python tests/reliability/guided.py --seconds $(SECONDS)

sbom: setup  ## what is installed, as CycloneDX JSON in build/sbom.json
	$(INSTALL) cyclonedx-bom
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml -o build/sbom.json $(BIN)/python

# Strict, as pip-audit otherwise finds nothing wrong with packages that it could not ask about.
audit: setup  ## known vulnerabilities of what is installed; needs the network
	$(INSTALL) pip-audit
	@mkdir -p build
	$(BIN)/python -m pip list --disable-pip-version-check --format=freeze --exclude-editable | sed 's/+.*//' > build/installed.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r build/installed.txt

clean:  ## remove caches and builds; the environment and the runs stay
	rm -rf build dist site src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
