# Preble from a checkout. Needs nothing beforehand but Python 3.11 with venv.
PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup serve test check lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

setup: ## make .venv with the pinned packages; instant when it is up to date
	@$(PYTHON) requirements/setup.py install

# `exec` leaves no shell between make and the daemon, so that a SIGTERM to make reaches it.
serve: setup ## start the daemon and its engines; ARGS="--config FILE" and the like are passed on
	@exec $(BIN)/preble serve $(ARGS)

test: check ## run the checks, then the tests; ARGS="-k name" and the like are passed to pytest
	@exec $(BIN)/pytest $(ARGS)

check: setup ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup ## renew the pinned lists in requirements/
	@$(BIN)/python requirements/setup.py lock

clean: ## remove .venv and caches; data in .preble stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
