# Each target sets up .venv by itself; it is set up again when pyproject.toml or constraints.txt change.
#   make demo       collect, train, play, caption, chat, and write a report (CPU, minutes)
#   make test       the default tests        make test-all   every test, the slow ones too
#   make test-faults  kills, full disks, hostile files, tried for real; prints which are survived
#   make docs       the documentation as a site, site/index.html       make notebooks  run those of docs/notebooks/
#   make lint       ruff and mypy            make clean      remove .venv and caches
# EXTRAS chooses what else to install: `make test EXTRAS=all,dev` tests every family of environments, too.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= dev,serve
comma  := ,
STAMP  := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

# Two processes of one thread each: on two cores the tests and small models are faster without thread pools fighting.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy

.PHONY: setup demo test test-all test-faults docs notebooks lint clean
.DELETE_ON_ERROR:

setup: $(STAMP)

# The pinned torch is named on the command line, so that pip can not pick another build that brings gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Calico needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)
	$(BIN)/calico demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all:
	$(MAKE) --no-print-directory setup EXTRAS=all,dev
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "" --durations=15

test-faults: $(STAMP)
	$(TEST_ENV) $(BIN)/python tests/faults/run.py

# NO_MKDOCS_2_WARNING: Material's advertisement for its successor.
docs:
	$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "wrote site/index.html"

notebooks:
	$(MAKE) --no-print-directory setup EXTRAS=$(EXTRAS),docs,media
	$(TEST_ENV) $(BIN)/python -m pytest -q -m "" tests/test_docs.py -k "notebook or site"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy typings/calico tests

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
