# All targets work in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests of a module run in one process, so that what they share is made once. Many wait for servers and workers that
# they start, so that three processes keep two cores busy.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
.DEFAULT_GOAL := help

.PHONY: help quickstart test lint bench docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{ printf "make %-12s%s\n", $$1, $$2 }'

quickstart: $(VENV)/.run  ## install gmm-dask, and search for the best mixture of a small real data set
	@$(BIN)/gmm-dask run configs/quickstart.yaml --no-prefect

test: $(VENV)/.dev  ## run the tests in parallel; ARGS=--runslow adds the slow ones, ARGS=tests/em selects a folder
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

lint: $(VENV)/.dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## run the short forms of the benchmarks
	$(BIN)/python benchmarks/kernels.py --short
	$(BIN)/python benchmarks/sweep.py --short
	$(BIN)/python benchmarks/out_of_core.py --rows 2000000

docs: $(VENV)/.dev  ## build the documentation site, docs/_build/html
	$(BIN)/gmm-dask schema --markdown > docs/config.md
	$(BIN)/python docs/gallery.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning docs docs/_build/html

clean:  ## remove the virtual environment, results and build files
	rm -rf $(VENV) results build dist *.egg-info docs/_build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing gmm-dask into $(VENV) (once; a minute or two)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing gmm-dask and its development tools into $(VENV) (once; a minute or two)"
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.run
