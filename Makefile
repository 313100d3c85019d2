# `make help` lists the targets. VENV and PYTHON can be set: make demo PYTHON=python3.12
.DEFAULT_GOAL := help
.PHONY: help demo test long faults lint checks format unit bench docs clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(PYTHON) scripts/setup_env --venv $(VENV)
# What the tests need, without a server.
TEST := test,bfcl,bfcl-web,ifbench,livecodebench,scicode
# A third of the tests wait for Slurm and a third for vLLM: beside them the others run.
SIDE_BY_SIDE := -n 3 --dist loadscope --no-loadscope-reorder
# Compiled code is kept: what the tests start are hundreds of short Python processes.
unexport PYTHONDONTWRITEBYTECODE
# Python without the ending that ruff looks for.
SCRIPTS := scripts/setup_env scripts/slurm_dev_cluster

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: ## set up, serve a tiny model with vLLM, evaluate it, show the results
	@$(SETUP) --extras cpu
	@$(BIN)/evalkit run recipes/demo.yaml

test: ## set up, check style, types and layers, then run the tests (real vLLM, real Slurm)
	@scripts/install_system_packages
	@$(SETUP) --extras $(TEST),cpu
	@command -v chromium >/dev/null || $(BIN)/playwright install --with-deps chromium
	@$(MAKE) --no-print-directory checks
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

long: ## run the tests that are too long for every change (needs root)
	@scripts/install_system_packages
	@$(SETUP) --extras $(TEST),cpu
	$(BIN)/python -m pytest -m long

# For volume on this machine, then every fault of a real Slurm, then some of them with a real vLLM.
FAULTS ?= 180
SEED ?= $(shell date +%s)
CAMPAIGN := $(BIN)/python -m tests.faults.campaign --seed $(SEED)

faults bench: export EVALKIT_REGISTRY = off
faults: ## play a long, random fault campaign (FAULTS=180, SEED=now; 40 minutes, needs root)
	@scripts/install_system_packages
	@$(SETUP) --extras $(TEST),cpu
	$(CAMPAIGN) --faults $(FAULTS) --jobs 4
	$(CAMPAIGN) --real "fault server" --faults 22
	$(CAMPAIGN) --real vllm --faults 8

lint: ## style, types and layers only
	@$(SETUP) --extras $(TEST)
	@$(MAKE) --no-print-directory checks

checks:
	$(BIN)/ruff check . $(SCRIPTS)
	$(BIN)/ruff format --check . $(SCRIPTS)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: ## format the code and mend what ruff can mend
	@$(SETUP) --extras $(TEST)
	$(BIN)/ruff check --fix . $(SCRIPTS)
	$(BIN)/ruff format . $(SCRIPTS)

unit: ## the fast tests only: no server, no Slurm
	@$(SETUP) --extras $(TEST)
	$(BIN)/python -m pytest tests/unit

bench: ## measure engine, scheduling, commands, sandbox and a real vLLM (installs nginx; half an hour)
	@scripts/install_system_packages --bench
	@$(SETUP) --extras bench,cpu,livecodebench
	$(BIN)/python -m bench.engine --peers
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.gateway
	$(BIN)/python -m bench.commands
	$(BIN)/python -m bench.sandbox
	$(BIN)/python -m bench.livecodebench
	$(BIN)/python -m bench.suite
	$(BIN)/python -m bench.real_vllm
	$(BIN)/python -m bench.hosted

docs: ## build the documentation into site/
	@$(SETUP) --extras docs
	$(BIN)/mkdocs build --strict

clean: ## remove the virtual environment and everything that was built; keeps runs/
	rm -rf $(VENV) site build dist .coverage .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
