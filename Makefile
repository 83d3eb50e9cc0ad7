# Everything happens in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: quickstart test lint bench clean

quickstart: $(VENV)/.run  ## install, then choose a mixture for Old Faithful
	@$(BIN)/gmm-dask run configs/quickstart.yaml --no-prefect

test: $(VENV)/.dev  ## the tests; ARGS=--runslow adds those that kill processes or take much memory
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## short forms of the measurements
	$(BIN)/python benchmarks/kernels.py --short
	$(BIN)/python benchmarks/sweep.py --short
	$(BIN)/python benchmarks/out_of_core.py --rows 2000000

clean:
	rm -rf $(VENV) results build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing gmm-dask into $(VENV) (once; a minute or two)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing gmm-dask and its test tools into $(VENV) (once; a minute or two)"
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.run
