# Every target makes .venv and installs what it needs once; a stamp per set of extras says so.
# `make PYTHON=python3.13 ...` picks another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet -c requirements.lock
INPUTS := pyproject.toml requirements.lock

.PHONY: demo test test-whole test-opencl test-clients parity lint bench serve format lock clean

# `make demo DEVICE=cl:0` runs on the first OpenCL device.
demo: $(VENV)/.installed$(if $(filter cl%,$(DEVICE)),-opencl)
	$(BIN)/homebox demo$(if $(DEVICE), --device $(DEVICE))

serve: $(VENV)/.installed
	$(BIN)/homebox serve

# Files of tests are dealt out to so many processes; kernels of both go through one cache.
WORKERS ?= 2
test: $(VENV)/.installed-test,opencl-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# What `make test` leaves out because it takes long: more cases, more runtimes.
test-whole: $(VENV)/.installed-test,opencl-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m whole

# All that runs on OpenCL devices; `make test` leaves out the parts that take long.
test-opencl: $(VENV)/.installed-test,opencl-test
	$(BIN)/python -m pytest tests/opencl -m "whole or not whole"

# Real agents (opencode, OpenClaw, SDKs) against a daemon whose choices are forced. They are installed
# once, from npm and PyPI, by the script beside the reference data; without it their tests are skipped.
SHARED ?= ../shared
CLIENTS_DIR ?= .clients
INSTALL_CLIENTS := $(wildcard $(SHARED)/clients/install.sh)
test-clients: $(VENV)/.installed-test,opencl-test $(if $(INSTALL_CLIENTS),$(CLIENTS_DIR)/.installed)
	CLIENTS_DIR=$(abspath $(CLIENTS_DIR)) $(BIN)/python -m pytest -m "" tests/clients

$(CLIENTS_DIR)/.installed: $(INSTALL_CLIENTS)
	$(INSTALL_CLIENTS) $(abspath $(CLIENTS_DIR))
	@touch $@

# Compares with the reference implementations and writes what tests/parity and docs/models.md say.
# They get an environment of their own; `make parity PEERS=python` takes one that has them.
PEERS ?= $(VENV)-parity/bin/python
parity: $(if $(filter $(VENV)-parity/%,$(PEERS)),$(VENV)-parity/.installed)
	rm -f tests/parity/reference/measured.json
	$(PEERS) -m pytest -m parity tests/parity
	$(PEERS) -m tests.parity.table

# The usual index has torch for graphics cards and llama.cpp as sources, which are large and slow;
# PEERS_FROM="--extra-index-url URL ..." names places with wheels for CPUs.
PEERS_FROM ?=
$(VENV)-parity/.installed: $(INPUTS)
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/python -m pip install --quiet -c requirements.lock \
		$(PEERS_FROM) -e '.[parity]'
	@touch $@

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("homebox needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-%: $(INPUTS) | $(BIN)/python
	$(INSTALL) -e '.[$*]'
	@touch $@ $(VENV)/.installed

# Resolves every extra but bench and parity (pinned in pyproject.toml) anew.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet -e '.[test,lint,opencl,opencl-test]'
	@echo '# Tested versions; a constraints file for pip. Made by "make lock".' > requirements.lock
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable >> requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-parity .mypy_cache .pytest_cache .ruff_cache
