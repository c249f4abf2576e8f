# Needs only Python 3.11+, make and git: the rest is made on demand in .venv and .local, and Kafka's jars in ~/.cache/tickloom.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/compiled
CORE := setup.py $(shell sed -n 's/^    "\(.*\.py\)",$$/\1/p' setup.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo test pure check bench faults soak up down clean status

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "tickloom needs Python 3.11 or newer: make PYTHON=python3.11")'
	@echo "making .venv and installing everything into it, once: two minutes or so"
	@$(PYTHON) -m venv .venv && TICKLOOM_PURE=1 $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[local,dev]'
	@touch $@

$(READY): .venv/installed $(CORE)
	@echo "compiling the core (mypyc; plain Python where there is no C compiler)"
	@$(BIN)/python setup.py --quiet build_ext --inplace 2>.venv/compile.log || (cat .venv/compile.log; exit 1)
	@grep "^tickloom:" .venv/compile.log || true; touch $@

setup: $(READY) ## make .venv and install everything in it, once

demo: $(READY) ## the whole system on this machine, with simulated brokers (SECONDS=90: end by itself)
	@$(BIN)/tickloom demo $(if $(SECONDS),--seconds $(SECONDS))

test: $(READY) ## run all tests, two files at a time (ARGS="-k candle": some of them)
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

pure: $(READY) ## the tests of what is compiled again, in plain Python
	@rm -rf .venv/pure && mkdir .venv/pure && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t .venv/pure
	@cd .venv/pure && ../bin/pytest --quiet -p no:cacheprovider --numprocesses 2 tests/schemas tests/stages tests/reference tests/connectors/test_archive_*.py tests/topology/test_fetched.py tests/test_layers.py

check: $(READY) ## format, lint and types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: $(READY) ## measure on real Kafka; writes bench/README.md and bench/results.json
	@$(BIN)/python -m bench $(ARGS)

faults: $(READY) ## break everything on real servers and compare with an undisturbed run: 1.5 hours (ARGS=--short)
	@$(BIN)/python -m tests.faults $(ARGS)

soak: $(READY) ## 5,000 ticks/s for MINUTES=30; memory, handles, lag and latency as a plot
	@$(BIN)/python -m tests.faults.soak $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

up: $(READY) ## start the local Kafka and PostgreSQL
	@$(BIN)/tickloom local start

down: $(READY) ## stop them; their data stay
	@$(BIN)/tickloom local stop

status: $(READY) ## what flows: partitions, lag, sources, rejections, gaps, database
	@$(BIN)/tickloom status

clean: $(READY) ## stop the local servers and remove their data
	@$(BIN)/tickloom local clean --yes
