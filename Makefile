# Needs only Python 3.11+, make and git: the rest is made on demand in .venv and .local.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench up down clean status

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "tickloom needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --editable '.[local,dev]'
	@touch $@

setup: $(READY) ## make .venv and install everything in it, once

demo: $(READY) ## the whole system on this machine, with simulated brokers (SECONDS=90: end by itself)
	@$(BIN)/tickloom demo $(if $(SECONDS),--seconds $(SECONDS))

test: $(READY) ## run all tests (ARGS="-k candle": some of them)
	@$(BIN)/pytest $(ARGS)

check: $(READY) ## format, lint and types
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: $(READY) ## measure on real Kafka; writes bench/README.md and bench/results.json
	@$(BIN)/python -m bench $(ARGS)

up: $(READY) ## start the local Kafka and PostgreSQL
	@$(BIN)/tickloom local start

down: $(READY) ## stop them; their data stay
	@$(BIN)/tickloom local stop

status: $(READY) ## what flows: partitions, lag, sources, rejections, gaps, database
	@$(BIN)/tickloom status

clean: $(READY) ## stop the local servers and remove their data
	@$(BIN)/tickloom local clean --yes
