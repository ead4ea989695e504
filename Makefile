# Every target creates .venv from constraints.txt when it is missing; nothing else has to be set up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 5006
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench notebooks lab clean

help:
	@echo "make demo       compute the embedded demo and serve the dashboard on 127.0.0.1:$(PORT)"
	@echo "make test       run all tests (browser tests where Chromium is found)"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite the code"
	@echo "make bench      benchmarks, compared with the committed baseline"
	@echo "make notebooks  execute the notebooks, each in a kernel of its own"
	@echo "make lab        JupyterLab in notebooks/, with everything installed"

# pip, not uv: a local build of torch is found through pip's own settings
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("gradunc-viz needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/gradunc demo --port $(PORT) --no-browser

# a file stays in one process, so that what it shares is made once; browsers wait for deadlines and want all cores
test: $(READY)
	$(BIN)/python -m pytest -m "not browser" -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -m browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python tests/benchmarks/harness.py

# in a scratch folder: the files stay as they are; the first error fails
notebooks: $(READY)
	$(BIN)/python -m pytest tests/test_notebooks.py --durations=10

lab: $(READY)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 notebooks

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
