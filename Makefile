# Every target creates .venv from constraints.txt when it is missing; nothing else has to be set up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5006
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
RUN := $(VENV)/.run
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast soak lint format bench compatibility notebooks lab clean

help:
	@echo "make demo       compute the embedded demo and serve the explorer on 127.0.0.1:$(PORT)"
	@echo "make test       run all tests (browser tests where Chromium is found)"
	@echo "make test-fast  run those that take no time: not slow, not in a browser, not on real networks"
	@echo "make soak       what may fail while frames are written, tried ten times as often"
	@echo "make lint       ruff, mypy and the direction of imports"
	@echo "make format     let ruff rewrite the code"
	@echo "make bench      benchmarks, compared with the committed baseline"
	@echo "make compatibility  run every kind of network, and write what became of it into docs/networks.md"
	@echo "make notebooks  execute the notebooks, each in a kernel of its own"
	@echo "make lab        JupyterLab in notebooks/, with everything installed"

# pip, not uv: a local build of torch is found through pip's own settings
$(RUN): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("gradunc-viz needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

# what tests need besides is large (triton alone takes 290 MB) and is not waited for by who wants to look
$(READY): $(RUN)
	$(INSTALL) ".[dev]"
	touch $@

demo: $(RUN)
	$(BIN)/gradunc demo --port $(PORT) --no-browser

# long tests begin, and a process that is done takes over from one that is not
TESTS := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: $(READY)
	$(TESTS) --durations 15

test-fast: $(READY)
	$(TESTS) -m "not slow and not browser and not real"

soak: $(READY)
	GRADUNC_SOAK=10 $(TESTS) tests/faults tests/store/test_crash.py --durations 15

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python tests/benchmarks/harness.py

compatibility: $(READY)
	PYTHONPATH=tests:tests/networks $(BIN)/python tests/networks/compatibility.py --write

# in a scratch folder: the files stay as they are; the first error fails
notebooks: $(READY)
	$(BIN)/python -m pytest tests/test_notebooks.py --durations=10

lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 notebooks

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
