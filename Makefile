# make train, make test: the only two commands a new machine needs. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install train demo test test-slow test-demo faults bench gpu lint format lock clean

install: $(INSTALLED)

# The exact versions of constraints.txt, which are the ones that the tests ran with.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

train: $(INSTALLED)
	$(BIN)/python train.py $(ARGS)

# A page to play with; ARGS="ckpt=mnist port=8000" and the like.
demo: $(INSTALLED)
	$(BIN)/python -c 'import starlette, uvicorn' 2> /dev/null || $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	$(BIN)/python demo.py $(ARGS)

# Two tests at a time, each with half of the cores.
test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

# The rest of what CI runs: tests of many seconds each.
test-slow: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal -m "slow and not faults" $(ARGS)

# The page of make demo in a browser.
test-demo: $(INSTALLED)
	@command -v chromium > /dev/null || { echo 'test-demo needs a browser: apt-get install -y chromium'; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test-demo]'
	$(BIN)/pytest -m demo tests/demo $(ARGS)

# What takes minutes: killing a run twenty times and the like; figures in docs/reliability.md.
faults: $(INSTALLED)
	$(BIN)/pytest -m faults $(ARGS)

bench: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python scripts/benchmark.py $(ARGS)

# What only a GPU can tell, in three parts of at most eight minutes; ARGS=--dry-run tries it out on a CPU.
gpu: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python scripts/gpu_report.py $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Newest versions that pyproject.toml allows; run the tests before committing them.
lock:
	scripts/lock.sh

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache build dist
