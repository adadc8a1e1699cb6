# Every target makes the environment first. `make help` lists them.
PYTHON ?= python3
PORT ?= 8000
# Given to pip when it installs torch, e.g. TORCH_OPTIONS="--index-url <the CPU index that PyTorch's own page names>"
TORCH_OPTIONS ?=
TORCH := torch==2.13.0
# Two test processes, one torch thread each: more are slower on a busy machine
PROCESSES ?= 2

VENV := .venv
READY := $(VENV)/.ready
ATLAS := $(VENV)/bin/pruning-atlas
export OMP_NUM_THREADS := 1
SOURCES := $(shell find schema catalog -type f -not -path '*/__pycache__/*' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help serve test catalog site check format mutants measure data chromium clean

help: $(READY)  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' Makefile | expand -t 16

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making the environment in $(VENV) (torch is large: a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check $(TORCH_OPTIONS) $(TORCH) numpy
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

build/catalog.sqlite: $(READY) $(SOURCES)
	@$(ATLAS) build

catalog: build/catalog.sqlite  ## read and check the records, write build/catalog.sqlite

site: build/catalog.sqlite  ## write build/site/
	@$(ATLAS) site

serve: site  ## build everything and serve it at http://127.0.0.1:8000 (PORT=8080 for another port)
	@$(ATLAS) serve --port $(PORT)

check: $(READY)  ## formatter, linter, types, and every problem of the catalog: seconds
	@$(VENV)/bin/ruff format --check --quiet . || { echo "make format mends this"; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(ATLAS) check

format: $(READY)  ## format the code
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/ruff check --fix --quiet .

# Chromium drives the browser tests. As root on Debian or Ubuntu it installs itself; elsewhere the command is named.
chromium: $(READY)
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests"; apt-get -qq update && apt-get -qq install --yes chromium >/dev/null; \
	  else \
	    echo "The browser tests need Chromium, and installing it needs root. On Debian or Ubuntu:"; \
	    echo "  sudo apt-get install chromium"; exit 1; \
	  fi; }

test: chromium build/catalog.sqlite check  ## every test: the fast ones first, then claims, then the browser
	@$(VENV)/bin/pytest -n $(PROCESSES)

mutants: $(READY)  ## break every implementation on purpose; 90 % of the breaks must be noticed (MODULES="before_training.snip ...")
	@$(VENV)/bin/python -m tools.mutants $(MODULES)

measure: $(READY)  ## sizes and times of every implementation, to catalog/measurements/sizes.jsonl (MODULES="before_training.snip ...")
	@$(VENV)/bin/python -m tools.measure $(MODULES)

data: $(READY)  ## Fashion-MNIST and the King James text (no test needs them)
	@$(VENV)/bin/python -m tools.data

clean: $(READY)  ## remove what was built; the environment and the data stay
	@find build -mindepth 1 -maxdepth 1 -not -name data -exec rm -rf {} +
