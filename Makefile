PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The whole suite runs by default; `make test ARGS="tests/unit -k match"` runs a part.
ARGS ?=
# Processes that share it. Most tests wait for others, so three keep two cores busy; `make test WORKERS=0` uses none.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint services stack stack-jars stack-down bench-capture bench-store bench-distributed bench-destinations oracle large sets moves chaos signals clean

help: ## list what can be made
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## (.*)/  \1\t\2/' | expand -t 21

setup: $(VENV)/ready ## make .venv with the hub command in it

$(VENV)/ready: pyproject.toml constraints.txt cdc/java/hub/DocumentValues.java
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded,demo,dev]'
	$(BIN)/python -m cdc.converter
	touch $@

demo: setup ## the whole system on this machine, with an example legacy application (ONCE=1 ends by itself)
	$(BIN)/hub demo $(if $(ONCE),--once) $(if $(ALSO),--also $(ALSO))

services: setup ## install what the tests need where that is allowed (root and apt), and say what is missing
	bash tests/services.sh

stack: setup ## the whole distributed mode as background processes of this machine, without containers
	$(BIN)/python -m stack.local up

stack-down: setup ## end what `make stack` has started; its data stay in var/stack
	$(BIN)/python -m stack.local down

stack-jars: setup ## bring the jars of Kafka, Kafka Connect and Debezium, by Maven
	$(BIN)/python -m stack.jars

.env: ## what compose.yaml takes from the environment, with passwords of its own
	$(PYTHON) -m stack.environment

test: setup services lint ## lint, type check and run every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

lint: setup ## ruff and the strict type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-capture: setup services ## row changes a second, the hub against the bare Debezium engine
	$(BIN)/python -m benchmarks.capture

bench-store: setup services ## what a row change costs in the store, Postgres beside SQLite, by size of the store transaction
	$(BIN)/python -m benchmarks.store

bench-distributed: setup services ## capture by 1, 2 and 4 workers from filled topics, dispatch by 1, 2 and 4 to a slow receiver
	$(BIN)/python -m benchmarks.distributed

bench-destinations: setup services ## what a healthy destination notices of five bad ones, at 50 commits a second
	$(BIN)/python -m benchmarks.destinations

oracle: setup services ## the long run of the oracle: random schemas and transactions against plain SQL
	HUB_ORACLE_COMMITS=5000 $(BIN)/python -m pytest tests/acceptance -k oracle --timeout 7200

large: setup services ## large commits at full size: a hot parent of 100,000 documents, a transaction of 500,000 rows
	HUB_LARGE=1 $(BIN)/python -m pytest tests/integration/test_large_commits.py -s

sets: setup services ## each receiver ends with its subscription's set: 100 seeds on either store (HUB_SETS takes another number)
	HUB_SETS=$${HUB_SETS:-100} $(BIN)/python -m pytest tests/integration/test_merging.py -k its_set -n 2

moves: setup services ## entities move between streams, on either store, and while a worker has the old project
	HUB_MOVES=1 $(BIN)/python -m pytest tests/fault/test_moves.py tests/acceptance/test_streams.py

chaos: setup services ## ten minutes of workers that are killed, stopped and added (HUB_WORKERS_MINUTES takes another number)
	HUB_WORKERS_MINUTES=$${HUB_WORKERS_MINUTES:-10} $(BIN)/python -m pytest tests/fault/test_many_workers.py

signals: setup services ## whether Debezium's incremental snapshots have become fit for `hub source resnapshot`
	HUB_SIGNALS=1 $(BIN)/python -m pytest tests/fault/test_signals.py

clean: ## remove what was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
