# `make demo` and `make test` set everything up by themselves; the second call starts at once.
PYTHON ?= python3
SEED ?= 0
CONCEPT ?= cat
TASK ?=
TORCH_INDEX ?=
BIN := .venv/bin
READY := .venv/.ready
TESTING := .venv/.testing
LOWEST := .venv-lowest
PIP := --quiet --disable-pip-version-check
PACKAGES := rl_unlearn actors learner cluster experiments

.PHONY: demo test faults lowest lint docs canvas clean help

help:
	@echo "make demo    forget a concept on the shipped emoji canvas (SEED=1, CONCEPT=frog), or what no"
	@echo "             word names (TASK=mirrored, large or tilted)"
	@echo "make test    run all tests but those of make faults"
	@echo "make faults  break and repeat runs on Ray, for all families and settings: more than an hour"
	@echo "make lowest  run the fast tests on the lowest versions of all packages, in .venv-lowest;"
	@echo "             they have wheels for Python 3.11 and 3.12: PYTHON=python3.11"
	@echo "make lint    check format, style and types"
	@echo "make docs    build the documentation as a site, site/index.html"
	@echo "make canvas  rebuild the emoji canvas from its sources"
	@echo "make clean   remove the virtual environment and caches; outputs/ stays"
	@echo "TORCH_INDEX=URL, when .venv is first made, takes torch from there: PyTorch's index of"
	@echo "             CPU builds saves gigabytes where there is no GPU"

demo: $(READY)
	$(BIN)/python -m experiments demo --seed "$(SEED)" $(if $(TASK),--task "$(TASK)","concept=$(CONCEPT)")

test: $(TESTING)
	$(BIN)/python -m pytest --numprocesses 2 --maxschedchunk 1

faults: $(TESTING)
	$(BIN)/python -m pytest -m "faults or long"

lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -m "not slow and not faults and not long"

lint: $(TESTING)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(TESTING)
	$(BIN)/python -m experiments.site --out site

canvas: $(TESTING)
	$(BIN)/python -m experiments.canvas --work canvas-work

clean:
	rm -rf .venv $(LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 ..." >&2; exit 3; }
	@echo "setting up .venv with the pinned packages (several GB the first time)"
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install $(PIP) --constraint constraints.txt --no-deps --index-url "$(TORCH_INDEX)" torch torchvision)
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt --editable .
	@touch $@

# What the S3 server for tests needs is at odds with what the project needs.
$(TESTING): $(READY) tests/s3-server.txt
	@echo "adding what tests, lint, docs and the canvas's own recipe need"
	$(BIN)/python -m pip install $(PIP) --constraint constraints.txt --editable '.[dev,docs,all]'
	$(PYTHON) -m venv .venv/s3-server
	.venv/s3-server/bin/python -m pip install $(PIP) --requirement tests/s3-server.txt
	@touch $@

$(LOWEST)/.ready: pyproject.toml lowest.txt
	@echo "setting up $(LOWEST) with the lowest versions that pyproject.toml admits"
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install $(PIP) --constraint lowest.txt --editable '.[dev,sweep]'
	@touch $@
