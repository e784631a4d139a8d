# `make verify` and `make test` need only Python 3.11 or newer: they first install whatever is missing in .venv.

PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked
READY := .venv/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
PYTEST := $(BIN)/python -m pytest

# Most of the time is tracing and compilation, which are single-threaded, so there is one process per core. All tests of a
# file run in one process and share what is compiled: this takes 5% more CPU time than a single process, instead of 15%.
WORKERS := -n 2 --dist loadfile
EIGHT_DEVICES := XLA_FLAGS="$$XLA_FLAGS --xla_force_host_platform_device_count=8"

# The files with tests that have a mark. Importing all others, only to leave out their tests, would take longer than most
# of these tests. A test checks that every file names the marks of its tests.
marked = $$(grep -rl --include='test_*.py' --exclude-dir=benchmarks 'mark\.$(1)\b' tests)

# On small matrices two BLAS threads mostly wait for each other, even more so beside the threads of XLA.
export OPENBLAS_NUM_THREADS := 1

.PHONY: help ready verify test slow browser bench notebooks docs pair figures readme report lint types lock wheel release

help:
	@echo 'make verify     check every numbered claim of the theory (python -m theory)'
	@echo 'make test       the tests and doctests, warnings as errors; then those that need 8 (simulated) devices'
	@echo 'make slow       the tests marked slow, including each benchmark once'
	@echo 'make browser    the tests of the HTML pages in Chromium; SCREENSHOTS=DIR keeps a picture of each'
	@echo 'make bench      the timings of tests/benchmarks'
	@echo 'make notebooks  execute every notebook'
	@echo 'make docs       build the documentation, docs/_build/html/index.html, and execute the notebooks for it'
	@echo 'make pair       write the .ipynb of every notebook from its script'
	@echo 'make figures    redraw the gallery of README.md, experiments/records/gallery'
	@echo 'make readme     update the tables of README.md and docs/ from the records'
	@echo 'make report     one page over everything that has been run: results/report.html'
	@echo 'make lint       ruff: rules and formatting'
	@echo 'make types      basedpyright'
	@echo 'make wheel      build sdist and wheel, and use the wheel in environments of its own'
	@echo 'make release    check that everything is ready for a release, build it, print the command that makes the tag'
	@echo 'make lock       regenerate requirements.lock from pyproject.toml'

verify: ready
	$(BIN)/python -m theory

# Most of the time of a test is compilation, which XLA does faster if it optimises less, and twice as fast without its
# newer code generator of fused operations. Tracing is faster if no operation notes the line it comes from. With the
# default options run `make verify`, `make docs` with all notebooks, and `make bench`.
test slow: export XLA_FLAGS += --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false
test slow: export JAX_TRACEBACK_IN_LOCATIONS_LIMIT := 0
test: ready
	$(PYTEST) $(WORKERS) -m 'not slow and not devices8 and not browser'
	$(EIGHT_DEVICES) $(PYTEST) -m devices8 $(call marked,devices8)

# Benchmarks run once here, on fewer examples, and their times are not judged.
slow: ready
	$(PYTEST) $(WORKERS) -m 'slow and not devices8 and not browser' --benchmark-disable tests/benchmarks $(call marked,slow)

# A file of tests is a process with a browser of its own. The pages of the documentation are those that `make docs` built.
browser: ready docs/_build/html/index.html
	$(PYTEST) $(WORKERS) -m browser tests/browser

# Benchmarks print ratios of times, so they run one after the other.
bench: ready
	$(PYTEST) tests/benchmarks

notebooks: ready
	$(PYTEST) --nbmake notebooks/*.ipynb

docs/_build/html/index.html:
	$(MAKE) docs

docs: ready
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

pair: ready
	$(BIN)/python notebooks/pair.py

figures: ready
	$(BIN)/python -m experiments gallery

readme: ready
	$(BIN)/python -m experiments report --write

report: ready
	$(BIN)/python -m experiments report

lint: ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: ready
	$(BIN)/basedpyright

wheel: ready
	.ci/wheel

# Uploads nothing and makes no tag: see docs/releasing.md.
release: ready
	$(BIN)/python .ci/release.py

# neural-tangents declares TensorFlow and tf2jax, which nothing here imports: [tool.uv] gives them a marker that is never true.
lock: ready
	$(BIN)/uv pip compile pyproject.toml --universal --fork-strategy fewest --python-version 3.11 \
	  --extra infinite-width --extra foolbox --extra notebooks --extra test --extra docs --extra browser --extra dev \
	  --no-header --no-annotate --no-emit-index-url --quiet --output-file .venv/lock
	grep -v "sys_platform == 'never'" .venv/lock > .venv/lock.kept
	mv .venv/lock.kept requirements.lock

# Each stamp is a copy of the file that the installation was made from, so the content of the file counts, not its time. The
# stamp is written last, so an interrupted installation starts over. Behind a symbolic link the environment belongs to
# someone else: it is used if it matches, and nothing is installed there.
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
