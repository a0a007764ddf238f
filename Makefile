# make demo | test | check | format; each makes .venv first, from constraints.txt, with Python 3.11 alone.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test check format

demo: .venv/installed
	$(BIN)/treeline demo demo-out

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
