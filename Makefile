# Every target sets up what it needs: a Python 3.11 or newer and make are enough.
# pip's ordinary configuration (index, proxy, certificates) is honoured; none is written here.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

PYTEST := -n $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test check tests test-long test-torch shapes recall phrasings zoo docs docs-outputs format build clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## the environment in .venv, with pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Chimera needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try: make PYTHON=python3.11" % sys.version_info[:2])'
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the package and its tools into $(VENV) (the first time takes minutes)"
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt hatchling editables
	@$(BIN)/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e '.[data,dev,docs]'
	@touch $@

demo: $(INSTALLED) ## train 64 networks at once on handwritten digits
	$(BIN)/chimera fit digits --module mlp --members 64

test: check tests ## format, lint, types, imports, tests

check: $(INSTALLED) ## format, lint, types, imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: $(INSTALLED) ## the tests alone
	$(BIN)/pytest $(PYTEST)

test-long: $(INSTALLED) ## the tests that take minutes, and more random examples
	HYPOTHESIS_PROFILE=long $(BIN)/pytest $(PYTEST) -m "long or not long" --timeout 1800

TORCH ?= 2.11.0
TORCH_VENV := .venv-torch-$(TORCH)
TORCH_INSTALLED := $(TORCH_VENV)/.installed

test-torch: $(TORCH_INSTALLED) ## the tests with another torch: make test-torch TORCH=2.11.0
	$(TORCH_VENV)/bin/pytest $(PYTEST)

# Another torch brings other versions of what it stands on: those pins are left out.
$(TORCH_INSTALLED): pyproject.toml constraints.txt
	@test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	@grep -vE '^(torch|triton|setuptools|sympy|networkx|fsspec|mpmath)==' constraints.txt \
		> $(TORCH_VENV)/constraints.txt
	@$(TORCH_VENV)/bin/python $(PIP_INSTALL) -c $(TORCH_VENV)/constraints.txt hatchling editables
	@$(TORCH_VENV)/bin/python $(PIP_INSTALL) -c $(TORCH_VENV)/constraints.txt \
		--no-build-isolation torch==$(TORCH) -e '.[data,dev]'
	@touch $@

# The rooms that annotate shapes. Others read frames and sources, which the checker's wrappers change;
# tests/test_shape_checking.py tells when a room annotates shapes and is not named here.
SHAPED := chimera.draws,chimera.fit

shapes: $(INSTALLED) ## the tests with every annotated shape checked at run time
	PYTHONPATH=tests/shape_checking $(BIN)/pytest $(PYTEST) \
		--jaxtyping-packages=$(SHAPED),shape_checker.checked

recall: $(INSTALLED) ## plant every check rule's mistake into clean networks; writes the table
	$(BIN)/python tests/check/recall.py

phrasings: $(INSTALLED) ## look at every check rule's mistake in other words; writes the table
	$(BIN)/python tests/check/phrased.py

ZOO_VENV := .venv-zoo
ZOO_INSTALLED := $(ZOO_VENV)/.installed

zoo: $(ZOO_INSTALLED) ## figures of summary and false alarms of check over torchvision and timm (several GB, hours)
	$(ZOO_VENV)/bin/python benchmarks/zoo/figures.py
	$(ZOO_VENV)/bin/python benchmarks/zoo/false_alarms.py

# torchvision needs the torch that it was built for, so this environment has its own.
$(ZOO_INSTALLED): pyproject.toml
	@test -x $(ZOO_VENV)/bin/python || $(PYTHON) -m venv $(ZOO_VENV)
	@$(ZOO_VENV)/bin/python $(PIP_INSTALL) torch==2.14.1 torchvision==0.29.1 timm==1.0.31
	@$(ZOO_VENV)/bin/python $(PIP_INSTALL) hatchling editables
	@$(ZOO_VENV)/bin/python $(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

docs: $(INSTALLED) ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-outputs: $(INSTALLED) ## write into the pages what their examples print now
	$(BIN)/python tests/rewrite_docs.py

format: $(INSTALLED) ## format the code and mend what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

build: $(INSTALLED) ## wheel and sdist, in dist/
	$(BIN)/python -m hatchling build

clean: ## remove what the targets made, the environment excepted
	rm -rf dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
