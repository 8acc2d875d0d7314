# Sets up everything from a bare Python 3.11: the first target installs into .venv, later ones find it ready.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test lint types contracts tests docs bench coverage clean

help:
	@echo "make demo       install, then run every application's demonstration and write demo/report.html"
	@echo "make test       lint, format, types, import contracts, tests"
	@echo "make docs       build the documentation into site/"
	@echo "make bench      list the benchmarks; run one with: .venv/bin/onlyforward bench NAME"
	@echo "make coverage   branch coverage of core and run"
	@echo "make clean      remove .venv and what was built"

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,dev]"
	@touch .venv/.ready

demo: .venv/.ready
	$(BIN)/onlyforward demo --out demo

test: lint types contracts tests

lint: .venv/.ready
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .

types: .venv/.ready
	@echo "== mypy"
	@$(BIN)/mypy

contracts: .venv/.ready
	@echo "== import contracts"
	@$(BIN)/lint-imports

tests: .venv/.ready
	@echo "== pytest"
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -q

docs: .venv/.ready
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@$(BIN)/mkdocs build --strict

bench: .venv/.ready
	@$(BIN)/onlyforward bench list

coverage: .venv/.ready
	@$(BIN)/coverage run -m pytest -q tests/core tests/run tests/contract
	@$(BIN)/coverage report --fail-under 90

clean:
	rm -rf .venv site demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
