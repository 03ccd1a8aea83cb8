# `make serve` and `make test` need Python 3.11 and nothing else. ARGS is passed on: make serve ARGS="--config other.toml".

PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help python serve test check lock clean
.SILENT:

help: ## Say what there is
	grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

python:
	command -v $(PYTHON) >/dev/null || { echo "preble: $(PYTHON) is needed (or name another: make PYTHON=...)" >&2; exit 1; }

serve: python ## Set up what is missing, then run the daemon in the foreground
	$(PYTHON) requirements/setup.py
	exec $(BIN)/preble serve $(ARGS)

test: python ## Set up what is missing, then check the code and run all tests, or those that ARGS names
	$(PYTHON) requirements/setup.py --dev
	$(MAKE) --no-print-directory check
ifdef ARGS
	exec $(BIN)/pytest $(ARGS)
else # real engines need the cores for themselves; all else is spread over them
	acceptance=0; $(BIN)/pytest tests/acceptance || acceptance=$$?; \
	$(BIN)/pytest --ignore tests/acceptance --numprocesses logical --maxprocesses 8 --dist loadfile && exit $$acceptance
endif

check: ## Formatting, lint, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: python ## Renew the pinned sets in requirements/
	$(PYTHON) requirements/setup.py --dev
	$(BIN)/python requirements/lock.py

clean: ## Remove what set-up and tests made; data in .preble stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
