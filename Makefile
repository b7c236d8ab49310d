# Each target makes .venv and installs what it needs; a second call reuses it.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DATASET ?= sample
WORKDIR ?= demo

.PHONY: demo test test-slow lint check fix bench docs clean

demo: $(INSTALLED)  ## from a log to recommendations over gRPC
	$(BIN)/twotower demo --dataset $(DATASET) --workdir $(WORKDIR) $(if $(SOURCE),--source $(SOURCE)) --overwrite

test: $(INSTALLED)  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## the slow tests alone, or those of TESTS
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(TESTS)

lint: $(INSTALLED)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## what should pass before every commit

fix: $(INSTALLED)  ## formats, and fixes what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## every benchmark in its quick form
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script --quick || exit 1; done

docs: $(INSTALLED)  ## the documentation, into site/
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) $(WORKDIR) site

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
