# make demo: set up, train a tiny model, evaluate it.   make test: set up, run all checks and tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# More than cores: some wait for Slurm, S3 and other machines most of the time (tests/scheduling.py).
TEST_PROCESSES ?= 4

.PHONY: help setup demo test tests test-fast unit-tests test-crash test-settings test-docker mutants lint audit clean

help:
	@echo "make demo    set up, make a small dataset, train a tiny model on it, evaluate, show"
	@echo "make test    set up, then lint, type check and run all tests"
	@echo "make test-fast   what a change of a pure part needs first: lint, types, the unit tests without weights (2 minutes)"
	@echo "make test-crash  kill saving runs some 300 times, on disk and on S3 (10 minutes)"
	@echo "make test-settings  disturb runs of a hundred random combinations of settings (an hour)"
	@echo "make test-docker build the CPU image and run the demo's first steps in it (as root, 20 minutes)"
	@echo "make mutants change the pure core in small ways and see whether the tests notice (MODULES=losses,split)"
	@echo "make lint    format check, lint and types alone"
	@echo "make audit   ask PyPI's advisory database about the pinned dependencies (needs the internet)"
	@echo "make setup   the virtual environment alone ($(VENV))"
	@echo "make clean   remove the environment and what runs have written"

setup: $(READY)

$(READY): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, PYTHON=%s is %s" % (sys.executable, sys.version.split()[0]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python launch/demo.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources .ci/run $(wildcard docker/*.sh launch/slurm/*.sh launch/slurm/*.sbatch)
	$(BIN)/hadolint docker/Dockerfile

test: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint tests

tests: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

test-fast: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint unit-tests

unit-tests: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 tests/unit -m "not weights"

test-crash: $(READY)
	PRS_MED_CRASHES=all PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -s \
		tests/crash tests/services/s3/test_s3_crashes.py

test-settings: $(READY)
	PRS_MED_RANDOM_SETTINGS=100 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -s \
		tests/distributed/test_random_settings.py

test-docker: $(READY)
	PRS_MED_BUILD_IMAGE=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest \
		tests/services/system/test_docker_image.py

mutants: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.mutants $(MODULES)

audit: $(READY)
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
