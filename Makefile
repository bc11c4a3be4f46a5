# The same verbs locally and in CI. Each target does its own set-up: a virtual environment, the package, the weights.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= cpu,train,bench,dev
ARTIFACTS ?= artifacts
PHOTOS ?=

export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two torch threads that spin on cores shared with others cost many times their work; without any they are slower than one.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 20000

.PHONY: help install models demo check test smoke serve up gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Doppel needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints/cpu.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints/cpu.txt --editable '.[$(EXTRAS)]'
	@touch $@

install: $(VENV)/.installed ## virtual environment with everything but the weights

models: install ## third-party weights, verified and converted
	$(BIN)/doppel models fetch

demo: models ## demo corpus, server, queries, verdicts, before/after sheet in demo/ (PHOTOS=folder for your own)
	$(BIN)/python deploy/demo.py $(if $(PHOTOS),--photos '$(PHOTOS)')

check: install ## format, lint, types, dependency direction, docstrings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pydoclint --quiet service models retrieval training

test: models ## the test suite
	$(BIN)/python -m pytest

smoke: models ## every batch job with its smoke preset
	$(BIN)/python -m pytest tests/contracts/test_jobs.py

serve: models ## the service on loopback, without keys
	$(BIN)/doppel serve --insecure

up: ## the service in a container
	docker compose --profile cpu up --build

# The builds with CUDA are not those of constraints/cpu.txt, so nothing is installed here: first, in the environment,
# pip install --editable '.[gpu,train,bench,dev]'
gpu-check: ## the CUDA path on a machine that has one; fails where there is none
	@test -x $(BIN)/python || { echo "no environment in $(VENV): install .[gpu,train,bench,dev] there first"; exit 1; }
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("gpu-check needs a CUDA device and a torch built for it; torch " + torch.__version__ + " sees none: nothing was checked")'
	$(BIN)/python -m pytest -m gpu

clean: ## remove what the targets made, but not the weights
	rm -rf demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
