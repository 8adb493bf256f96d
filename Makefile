# A machine with Python 3.11 or later, pip and make is all that these commands need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-quick test lint clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.installed  ## create .venv with the package and the tested versions of all that it needs

$(VENV)/.installed: setup.cfg setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cskd_hf needs Python 3.11 or later; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## the whole of CSKD on embedded data, from raw images to a scoring student: runs/demo/report.html
	$(BIN)/cskd-hf demo --output runs/demo

demo-quick: setup  ## the same with one seed and short training: shows that it works, proves no order
	$(BIN)/cskd-hf demo --quick --output runs/demo-quick

test: setup  ## all tests; no network, no data outside the repository needed
	$(BIN)/python -m pytest

lint: setup  ## ruff: errors, imports, formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove what the commands made
	rm -rf $(VENV) runs build dist src/*.egg-info
