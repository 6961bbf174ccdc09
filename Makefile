# Each target sets up what it needs; no environment has to be active.

PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
TORCH := auto
ARGS :=

.PHONY: setup runtime demo cluster-demo cluster-faults test check audit lock licences sbom

setup: $(VENV)/.complete  ## the environment alone; TORCH=cpu or TORCH=cuda picks torch's wheel

runtime: $(VENV)/.runtime  ## the environment of a node: without tests, lint and types

demo: setup  ## a small synthetic shop, end to end; ARGS=--stay keeps it running
	$(VENV)/bin/shopkeeper demo $(ARGS)

cluster-demo: setup  ## the node types of cluster.yaml, as raylets of this machine, take every verb; ARGS="--kill no"
	$(VENV)/bin/python -m tests.cluster_demo $(ARGS)

cluster-faults: setup  ## what becomes of a training when GCS, MLflow or the disk fail on such a cluster; ARGS="gcs redis"
	$(VENV)/bin/python -m tests.cluster_faults $(ARGS)

test: setup  ## the tests; ARGS="-m 'not ray'" leaves out those that start a cluster
	$(VENV)/bin/python -m pytest $(ARGS)

check: setup  ## lint, format, types, and the versions and licences of what is installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m release.installed
	$(VENV)/bin/python -m release.licences --check

audit: build/audit  ## the locks against known vulnerabilities; needs the network, unlike `check`
	build/audit/bin/pip-audit --strict --disable-pip --requirement requirements/runtime-cuda.txt --requirement requirements/development.txt

lock: setup build/uv  ## requirements/*.txt from pyproject.toml; ARGS="--upgrade PACKAGE" moves one
	$(VENV)/bin/python -m release.lock --uv build/uv/bin/uv $(ARGS)

licences: setup  ## THIRD_PARTY.md, the licences of what a node installs
	$(VENV)/bin/python -m release.licences

sbom: build/cyclonedx  ## build/sbom.cdx.json, the bill of materials of a node in CycloneDX
	PYTHON=$(PYTHON) release/install build/node $(TORCH) image
	build/cyclonedx/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
		--output-file build/sbom.cdx.json build/node

build/uv build/cyclonedx build/audit: build/%: requirements/tools/%.txt
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

$(VENV)/.complete $(VENV)/.runtime: $(wildcard requirements/*.txt) pyproject.toml release/install
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found on the PATH" >&2; exit 1; }
	PYTHON=$(PYTHON) release/install $(VENV) $(TORCH) $(if $(filter %/.complete,$@),development,node)
	@touch $@
