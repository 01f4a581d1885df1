# `make demo` and `make test` set everything up by themselves; the second call starts at once.
PYTHON ?= python3
SEED ?= 0
CONCEPT ?= cat
TASK ?=
BIN := .venv/bin
READY := .venv/.ready
PACKAGES := rl_unlearn actors learner cluster experiments

.PHONY: demo test faults lint docs canvas clean help

help:
	@echo "make demo    forget a concept on the shipped emoji canvas (SEED=1, CONCEPT=frog), or what no"
	@echo "             word names (TASK=mirrored, large or tilted)"
	@echo "make test    run all tests but those of make faults"
	@echo "make faults  break and repeat runs on Ray: most of an hour"
	@echo "make lint    check format, style and types"
	@echo "make docs    build the documentation as a site, site/index.html"
	@echo "make canvas  rebuild the emoji canvas from its sources"
	@echo "make clean   remove the virtual environment and caches; outputs/ stays"

demo: $(READY)
	$(BIN)/python -m experiments demo --seed "$(SEED)" $(if $(TASK),--task "$(TASK)","concept=$(CONCEPT)")

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --maxschedchunk 1

faults: $(READY)
	$(BIN)/python -m pytest -m faults

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m experiments.site --out site

canvas: $(READY)
	$(BIN)/python -m experiments.canvas --work canvas-work

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 ..." >&2; exit 3; }
	@echo "setting up .venv with the pinned packages (several GB the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,canvas,tracking]'
	@touch $@
