# `make verify` and `make test` need Python 3.11 or newer and nothing else: whatever is missing in .venv they install first.

PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked
READY := .venv/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
PYTEST := $(BIN)/python -m pytest

# Most of the time goes into tracing and compiling, which is single-threaded: one process a core. A file stays in one
# process, so that its tests share what is compiled: 5% more CPU time than in a single process, 15% otherwise.
WORKERS := -n 2 --dist loadfile
EIGHT_DEVICES := XLA_FLAGS="$$XLA_FLAGS --xla_force_host_platform_device_count=8"

# Two BLAS threads wait for each other on small matrices, the more so beside the threads of XLA.
export OPENBLAS_NUM_THREADS := 1

.PHONY: help ready verify test slow bench notebooks pair figures readme lint types lock

help:
	@echo 'make verify     check every numbered claim of the theory (python -m theory)'
	@echo 'make test       the tests and doctests, warnings as errors; then those that need 8 (simulated) devices'
	@echo 'make slow       the tests marked slow, each benchmark once among them'
	@echo 'make bench      the timings of tests/benchmarks'
	@echo 'make notebooks  execute every notebook'
	@echo 'make pair       write the .ipynb of every notebook from its script'
	@echo 'make figures    draw the gallery of README.md, experiments/records/gallery, anew'
	@echo 'make readme     renew the tables of README.md and docs/ from the records'
	@echo 'make lint       ruff: rules and formatting'
	@echo 'make types      basedpyright'
	@echo 'make lock       resolve requirements.lock anew from pyproject.toml'

verify: ready
	$(BIN)/python -m theory

# Most of the time of a test is compilation, which XLA does faster if it optimises less, and twice as fast without its
# newer code generator of fused operations; `make slow` runs as users do.
test: export XLA_FLAGS += --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
test: ready
	$(PYTEST) $(WORKERS) -m 'not slow and not devices8'
	$(EIGHT_DEVICES) $(PYTEST) -m devices8 tests

slow: ready
	$(PYTEST) -m 'slow and not devices8' --benchmark-disable || [ $$? -eq 5 ]  # 5: there are none

bench: ready
	$(PYTEST) tests/benchmarks

notebooks: ready
	$(PYTEST) --nbmake notebooks/*.ipynb

pair: ready
	$(BIN)/python notebooks/pair.py

figures: ready
	$(BIN)/python -m experiments gallery

readme: ready
	$(BIN)/python -m experiments report --write

lint: ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: ready
	$(BIN)/basedpyright

# neural-tangents declares TensorFlow and tf2jax, which nothing here imports: [tool.uv] gives them a marker that never holds.
lock: ready
	$(BIN)/uv pip compile pyproject.toml --universal --fork-strategy fewest --python-version 3.11 \
	  --extra infinite-width --extra foolbox --extra notebooks --extra test --extra dev \
	  --no-header --no-annotate --no-emit-index-url --quiet --output-file .venv/lock
	grep -v "sys_platform == 'never'" .venv/lock > .venv/lock.kept
	mv .venv/lock.kept requirements.lock

# Each stamp is a copy of the file that the installation was made from, so what counts is the content of that, not its
# time. It is written last: an installation that was cut off is begun again from nothing. Through a symbolic link the
# environment is that of someone else: it is used if it is the right one, and nothing is installed there.
$(READY): ready
ready:
	@if cmp -s requirements.lock $(LOCKED) && cmp -s pyproject.toml $(READY); then exit 0; fi; \
	if [ -L .venv ]; then \
	  echo "gsjax: .venv is a symbolic link to an environment that was not made from this requirements.lock and" \
	    "pyproject.toml, and nothing is installed through a link: remove it (rm .venv) to have an environment here" >&2; \
	  exit 1; \
	fi; \
	rm -f $(READY); \
	if ! cmp -s requirements.lock $(LOCKED); then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "gsjax needs Python 3.11 or newer as '$(PYTHON)'; name another with: make PYTHON=python3.12" >&2; exit 1; }; \
	  echo 'setting up .venv from requirements.lock: about a minute, once' && \
	  rm -f $(LOCKED) && $(PYTHON) -m venv --clear .venv && \
	  $(INSTALL) --requirement requirements.lock && \
	  cp requirements.lock $(LOCKED) || exit 1; \
	fi; \
	$(INSTALL) --no-build-isolation --editable . && cp pyproject.toml $(READY)
