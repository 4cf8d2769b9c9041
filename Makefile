# Every target sets up what it needs: a virtual environment in .venv with exact versions.
PYTHON ?= python3.11
PY := .venv/bin/python
# Containers often set this; then every one of Ray's processes compiles what it imports again, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test coverage test-slow test-box check bench docs clean

setup: .venv/ready

# uv, installed into the environment by pip, is three times quicker than pip alone.
.venv/ready: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(PY) jobs/full_pipeline.py --preset demo --try

# Two processes, a file of tests each; the longest files first (tests/conftest.py).
test: setup check
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# The same, slower, and at the end the coverage of each module by the tests' own processes.
coverage: setup
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov

test-slow: setup
	$(PY) -m pytest -q -m slow

test-box: setup
	$(PY) -m pytest -q tests/box/test_promised_command.py

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup
	$(PY) tests/bench/inference.py

# The site, into build/docs. A warning, such as a link that leads nowhere, is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

clean:
	rm -rf .venv runs build/docs
