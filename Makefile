# Each target sets up what it needs; no environment has to be active.

PYTHON := $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
ARGS :=

.PHONY: setup demo test check audit

setup: $(VENV)/.complete  ## the environment alone

demo: setup  ## a small synthetic shop, end to end; ARGS=--stay keeps it running
	$(VENV)/bin/shopkeeper demo $(ARGS)

test: setup  ## the tests; ARGS="-m 'not ray'" leaves out those that start a cluster
	$(VENV)/bin/python -m pytest $(ARGS)

check: setup  ## lint, format, types and dependencies
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -P .ci/audit.py

audit: setup  ## the dependencies against known vulnerabilities; needs the network, unlike `check`
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit \
	&& $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(VENV)/audit/bin/pip-audit --disable-pip --no-deps --requirement requirements.txt

$(VENV)/.complete: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and was not found on the PATH" >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
