# make demo | demo-sar | docs | check | test | check-long | fuzz | format; each makes .venv first, from constraints.txt, with Python 3.11 alone.
PYTHON ?= python3.11
BIN := .venv/bin
# Two processes on one thread each are faster than one on two, and the Ray tests wait while others compute.
JOBS ?= 2
# Tests start hundreds of processes: with their bytecode kept, none compiles the packages again.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS)

.PHONY: demo demo-sar docs static quick check test check-long fuzz format

demo: .venv/installed
	$(BIN)/treeline demo demo-out

# Pre-training without labels on synthetic radar images, and how far it carries.
demo-sar: .venv/installed
	$(BIN)/treeline demo demo-sar-out --sar --workers 2

# The documentation, into site/; each warning is an error. tests/whole/test_site.py builds it as well.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Format, lint and types.
static: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Tests of a few seconds at most.
quick: .venv/installed
	$(PYTEST) -m "not slow and not ray and not long"

# What to run before each commit. Types are checked while tests run.
check: .venv/installed
	$(MAKE) --jobs 2 static quick

# All tests but those that take minutes.
test: .venv/installed
	$(PYTEST) -m "not long"

# Those, one after the other. Their results are noted in docs/long-checks.md.
check-long: .venv/installed
	$(BIN)/pytest -m long --durations=0

# Damages files at random for SECONDS, and keeps what it finds as a case (tests/whole/test_fuzz_files.py).
SECONDS ?= 600
fuzz: .venv/installed
	TREELINE_FUZZ_SECONDS=$(SECONDS) TREELINE_FUZZ_SEED=$$(date +%s) OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/whole/test_fuzz_files.py

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
