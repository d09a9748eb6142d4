# `make` alone prints the list of targets.

# A Python of 3.11 or later; PYTHON=/path/to/python chooses another one.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)

.DEFAULT_GOAL := help
.PHONY: help dev test test-compiled proof ship lint format bench bench-quick compiled lock audit clean

# $(call find_python): a shell list that leaves the first fitting candidate in $$python, or says what is missing.
define find_python
python=; \
for candidate in $(CANDIDATES); do \
	if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
		python=$$candidate; break; \
	fi; \
done; \
if [ -z "$$python" ]; then \
	echo 'No Python 3.11 or later among: $(CANDIDATES). Install one, or say PYTHON=/path/to/python.' >&2; \
	exit 1; \
fi
endef

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: .venv/.made ## Kafka, MongoDB, a mail catcher and the service on this machine; Ctrl-C ends it
	@exec .venv/bin/mailsender dev

# Two at a time: half of the time of most tests goes into waiting. Each worker has a broker and a database of its own.
WORKERS ?= 2

test: .venv/.made ## All tests, on the real parts that this machine has; ARGS=--cov for branch coverage, in half as much time again
	.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# All but what looks at the checkout, which is not here; coverage sees nothing of compiled code. Most of these wait
# for what needs no machine: four at a time took 165 s where two took 273.
test-compiled: WORKERS = 4
test-compiled: .venv/.made build/compiled/.made ## Tests of the hot path against its compiled form, as the image has it
	cd build/compiled && PYTHONPATH=$(CURDIR)/build/compiled MAILSENDER_TEST_COMPILED=1 \
		$(CURDIR)/.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal \
		$(or $(ARGS),tests/compiled tests/unit tests/contract tests/integration/test_smtp*.py)

proof: .venv/.made ## Try to break every promise and write docs/proof.md; ARGS="kills --runs 100 --seed 7" for a part
	@.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes \
		-r requirements/fuzz.txt || echo 'atheris does not install here: no inputs guided by coverage' >&2
	.venv/bin/python -m proof $(ARGS)

ship: .venv/.made ## Exercise what ships: image, compose, manifests, specifications, wheel
	scripts/podman/ship $(ARGS)

bench: .venv/.made compiled ## Measure beside the peers, about 20 minutes; ARGS=--write puts the tables into docs/
	.venv/bin/python -m benchmarks $(ARGS)

bench-quick: .venv/.made compiled ## The same beside a bare aiosmtplib loop only, under a minute
	.venv/bin/python -m benchmarks --quick $(ARGS)

lint: .venv/.made ## Style, types, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.made ## Put the code in form
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

# The compiled form is measured where it can be made; plain Python where not.
compiled: .venv/.made ## The hot path compiled by mypyc, in build/compiled, where there is a C compiler
	@if command -v cc >/dev/null && .venv/bin/python -c \
		'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null; \
	then $(MAKE) --no-print-directory build/compiled/.made; \
	else rm -rf build/compiled; echo 'No C compiler, or no headers of Python (on Debian: apt-get install gcc' \
		'python3-dev): mailsender is measured as plain Python only' >&2; fi

# A wheel of this tree, unpacked, and beside it what tests need to run there.
build/compiled/.made: pyproject.toml build_hook.py $(shell find mailsender -name '*.py')
	@echo 'Compiling the hot path (one to four minutes)'
	@rm -rf build/compiled build/wheel
	@mkdir -p build/wheel
	@touch build/wheel/.begun
	@MAILSENDER_COMPILE=1 .venv/bin/python -m pip wheel -q --disable-pip-version-check \
		--no-deps --no-build-isolation --wheel-dir build/wheel .
	@.venv/bin/python -m zipfile -e build/wheel/*.whl build/compiled
	@ln -s ../../pyproject.toml ../../README.md ../../tests ../../lab ../../proof ../../simulation ../../benchmarks ../../deploy ../../docs ../../examples \
		../../requirements build/compiled/
	@touch -r build/wheel/.begun $@

# One for all targets: nobody waits for a second one after the first, and one lock says what is tried together.
.venv/.made: requirements/dev.txt
	@$(find_python); \
	echo "Making .venv with $$("$$python" -V) (once, about a minute)"; \
	rm -rf .venv; \
	if ! "$$python" -m venv .venv; then \
		echo 'Python cannot make environments here; on Debian: apt-get install python3-venv' >&2; \
		exit 1; \
	fi; \
	set -e; \
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r $<; \
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	touch $@

COMPILE = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

lock: ## Resolve the dependencies of pyproject.toml anew into requirements/
	@$(find_python); \
	set -e; \
	tools=$$(mktemp -d); \
	trap 'rm -rf "$$tools"' EXIT; \
	"$$python" -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install -q --disable-pip-version-check uv; \
	PATH="$$tools/bin:$$PATH"; \
	set -x; \
	$(COMPILE) pyproject.toml -o requirements/run.txt; \
	$(COMPILE) --extra dev --group test --group bench --group audit --group build --group compile \
		pyproject.toml -o requirements/dev.txt; \
	$(COMPILE) --group build --group compile -o requirements/build.txt; \
	$(COMPILE) --group fuzz -o requirements/fuzz.txt

# Not a part of `make test`: what it finds depends on the day and needs the network.
audit: .venv/.made ## Ask the package index whether what is locked has known vulnerabilities
	.venv/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		-r requirements/run.txt -r requirements/dev.txt

clean: ## Remove environments, caches and the state of `make dev`
	rm -rf .venv .dev .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache build dist
	find mailsender tests lab benchmarks proof simulation -name __pycache__ -type d -prune -exec rm -rf {} +
