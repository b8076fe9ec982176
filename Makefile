# `make demo` and `make test` need Python >= 3.11, pip and make; everything else goes into .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
# The release of openmmtorch on PyPI runs with the torch it was built for alone, and that with its own Triton: an
# environment of its own.
PLUGIN_VENV ?= .venv-openmm-torch
PLUGIN_TORCH := 2.9.0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEMO_ARGS ?=
PYTEST_ARGS ?=
PYTHONS ?= $(PYTHON)
TEST_WORKERS ?= 2

# Without an NVIDIA driver the CUDA build of torch would only cost gigabytes of download.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
WHEEL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fastegnn-md/wheels
INPUTS := pyproject.toml constraints.txt

# Of pip's lines, those that show progress. sed and not grep: no match is no failure.
progress = | sed -nE 's/^ *(Downloading [^ ]+ \([0-9.]+ (MB|GB)\)|Building wheel.*|Successfully installed).*/    \1/p'
# The folder of torch-scatter wheels built against the torch and the Python of .venv; evaluated in a recipe.
wheel_folder = $(WHEEL_CACHE)/$$($(BIN)/python -c 'import platform, sys; from importlib.metadata import version; \
	print("torch-{}-cp{}{}-{}".format(version("torch"), *sys.version_info[:2], platform.machine()))')

# Debian's Python has pip and no ensurepip: pip then installs itself.
new_venv = $(PYTHON) -m venv $(VENV) 2>/dev/null || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	$(PYTHON) -m pip -q --disable-pip-version-check --python $(BIN)/python install pip; } || { rm -rf $(VENV); exit 1; }

.PHONY: help install install-test install-dev install-scatter install-openmm-torch scatter-wheel demo test \
	test-fast test-openmm-torch lint type examples gallery docs docs-look docs-links notebooks dist \
	release-check clean distclean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS=$$'\t' read -r target text; do \
		printf '  %-16s %s\n' "$$target" "$$text"; done

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo 'No Python >= 3.11 found; name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo "==> $(VENV): new environment with $$($(PYTHON) --version)"
	@$(new_venv)

$(VENV)/.stamp-torch: constraints.txt | $(BIN)/python
	@pin=$$(sed -nE 's/^(torch==[^ ]+).*/\1/p' constraints.txt); echo "==> $$pin"; index=; \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && $(BIN)/python -c \
		'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)' '$(TORCH_CPU_INDEX)/torch/' 2>/dev/null; \
	then index='--extra-index-url $(TORCH_CPU_INDEX)'; fi; \
	$(PIP) install "$$pin" $$index $(progress)
	@touch $@

$(VENV)/.stamp-install: $(INPUTS) $(VENV)/.stamp-torch
	@echo '==> fastegnn-md[demo]'
	@$(PIP) install -c constraints.txt -e '.[demo]' $(progress)
	@touch $@

$(VENV)/.stamp-test: $(INPUTS) $(VENV)/.stamp-install
	@echo '==> fastegnn-md[test]'
	@$(PIP) install -c constraints.txt -e '.[test]' $(progress)
	@touch $@

$(VENV)/.stamp-dev: $(INPUTS) $(VENV)/.stamp-test
	@echo '==> fastegnn-md[dev]'
	@$(PIP) install -c constraints.txt -e '.[dev]' $(progress)
	@touch $@

install: $(VENV)/.stamp-install  ## .venv with the package and what the demo needs

install-test: $(VENV)/.stamp-test  ## ... and what the tests need; torch-scatter where its wheel is in the cache
	@folder=$(wheel_folder); wheel=$$(ls "$$folder"/torch_scatter-*.whl 2>/dev/null | tail -n 1) || wheel=; \
	[ -z "$$wheel" ] || $(BIN)/python -c 'from importlib.metadata import version; version("torch-scatter")' 2>/dev/null \
		|| { echo "==> $$(basename "$$wheel") from the cache"; $(PIP) install -q --no-deps "$$wheel"; }

install-dev: $(VENV)/.stamp-dev  ## ... and ruff, mypy, pyright, build, twine, pre-commit

scatter-wheel: $(VENV)/.stamp-torch  ## build torch-scatter once per machine (minutes; PyPI has the source only)
	@folder=$(wheel_folder); if ls "$$folder"/torch_scatter-*.whl >/dev/null 2>&1; then exit 0; fi; \
	pin=$$(sed -nE 's/^(torch-scatter==[^ ]+).*/\1/p' constraints.txt); echo "==> $$pin: compiling for $$(basename "$$folder")"; \
	$(PIP) install -q -c constraints.txt setuptools wheel ninja; \
	mkdir -p "$$folder"; new=$$(mktemp -d "$$folder/new.XXXXXX"); trap 'rm -rf "$$new"' EXIT; \
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) wheel -q --no-deps --no-build-isolation --no-cache-dir -w "$$new" "$$pin"; \
	mv "$$new"/torch_scatter-*.whl "$$folder/"

install-scatter: scatter-wheel install-test  ## torch-scatter in .venv, built if the cache has none

demo: install  ## three systems beside their engines, and a report (minutes on two cores)
	@$(BIN)/fastegnn-md demo --overwrite $(DEMO_ARGS)

test: install-test  ## the whole suite, in minutes; PYTEST_ARGS='-k scatter' narrows it
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

test-fast: install-test  ## without examples, demo, docs, compilation and long runs
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal -m 'not slow' $(PYTEST_ARGS)

$(PLUGIN_VENV)/.stamp: $(INPUTS) Makefile
	@[ -n "$(PYTHON)" ] || { echo 'No Python >= 3.11 found; name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo '==> $(PLUGIN_VENV): openmmtorch with torch $(PLUGIN_TORCH)'
	@$(PYTHON) -m venv $(PLUGIN_VENV)
	@sed 's/^torch==.*/torch==$(PLUGIN_TORCH)/; /^triton==/d' constraints.txt > $(PLUGIN_VENV)/constraints.txt
	@$(PLUGIN_VENV)/bin/python -m pip --disable-pip-version-check install -c $(PLUGIN_VENV)/constraints.txt \
		-e '.[openmm-torch]' hypothesis pytest pytest-xdist $(progress)
	@touch $@

install-openmm-torch: $(PLUGIN_VENV)/.stamp  ## the plugin openmm-torch with its own torch (7 GB)

test-openmm-torch: install-openmm-torch  ## the OpenMM tests with the plugin of PyPI
	@OMP_NUM_THREADS=1 $(PLUGIN_VENV)/bin/pytest -n $(TEST_WORKERS) --dist worksteal \
		tests/test_openmm_jump.py tests/test_openmm_hybrid.py tests/test_openmm_plugin.py $(PYTEST_ARGS)

lint: install-dev  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

type: install-dev  ## mypy, and pyright's word that the type of every public name is known
	@$(BIN)/mypy
	@$(BIN)/python .ci/known_types.py

examples: install  ## run every script of examples/
	@for script in examples/*.py; do echo "==> $$script"; \
		$(BIN)/python "$$script" --output "examples-output/$$(basename "$$script" .py)"; done

gallery: install-test examples  ## ... and draw the pictures of the page of examples from what they made
	@$(BIN)/python docs/draw_gallery.py examples-output

docs: install-test  ## the documentation site, docs/_build/html/index.html; a warning or a typing error is an error
	@$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs fastegnn_md integrators examples
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

docs-look: docs  ## the pages of the site in headless Chromium: no overflow, no broken picture, the search works
	@$(BIN)/python docs/look.py docs/_build/html

docs-links: install-test  ## look whether links of the docs to other sites lead somewhere; needs a network
	@$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/links

notebooks: install-test  ## execute the tutorials and keep what they print
	@OMP_NUM_THREADS=1 $(BIN)/python docs/execute.py

dist: install-dev  ## the files of a release in dist/: sdist, wheel made from it, both checked
	@rm -rf dist build *.egg-info
	@$(BIN)/python -m build --no-isolation -o dist . >/dev/null
	@$(BIN)/twine check --strict dist/*
	@du -h dist/*

release-check: dist  ## install the wheel into an empty environment and take steps; PYTHONS='python3.12 python3.13'
	@bash .ci/release $(PYTHONS)

clean:  ## what was built; .venv stays
	@rm -rf build dist docs/_build docs/reference/written *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## the environments too
	@rm -rf $(VENV) $(PLUGIN_VENV)
