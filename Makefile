# Everything runs in .venv; a stamp file says what has been installed there.
#   make demo    set up what the demo needs, run it
#   make fast    set up everything, run the quick tests, few cases of each: what one runs while working
#   make test    set up everything, run all tests
#   make coverage   all tests, and which lines they run
#   make check   format, lint, types, who may import whom
#   make docs    build the site into site/; any warning fails
#   make fuzz    read some thousand mutated files of each kind
#   make mutants how many small changes of the engine the tests notice, into models/results
#   make exports refill the table of exports in models/results
#   make tools   put patched graphs through other tools, into models/results
#   make bench   measure what a patch costs, into models/results
#   make gpu     measure a patch on CUDA, into models/results; in an environment of its own, with onnxruntime-gpu
#   make evidence       build the victims, measure hotfixes on them, write models/RESULTS.md; a part of it with GROUP=
#                       images, texts, tables, no-label, peers, adaptive, llm or graph-logic
#   make evidence-decoders   the same of language models; it needs packages of its own, see models/decoders
#   make evidence-quick one seed of one victim a kind, into models/results
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Two workers: each test process loads torch, so more cost memory rather than save time.
WORKERS ?= 2
# Bytecode is kept, whatever the shell says: else each worker and each process that a test starts compiles all anew.
unexport PYTHONDONTWRITEBYTECODE
# The first interpreter of a supported version; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo fast test coverage check docs fuzz format mutants exports tools bench gpu evidence evidence-decoders evidence-quick clean

demo: $(VENV)/.demo
	$(BIN)/atpatch-onnx demo

# In random order, which is printed: `make test TESTS=--randomly-seed=NUMBER` repeats one. A worker takes whole files as
# long as it has any, so that fixtures of a file are made once.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

fast: $(VENV)/.dev
	$(PYTEST) -m fast

test: $(VENV)/.dev
	$(PYTEST)

# The pages in htmlcov/ show every line; here are the files with the most to gain, and the sum.
coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-report=html
	$(BIN)/coverage report --sort=cover | sed -n '1,22p;$$p'

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
	$(BIN)/lint-imports

# Links and anchors are checked too. The notice is about the end of MkDocs: see docs/decisions/mkdocs-material.md.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants --json models/results/mutants.json

# COUNT cases of each kind; a finding names the command that repeats it.
COUNT ?= 1000
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz --count $(COUNT)

exports: $(VENV)/.dev
	$(BIN)/python -m models.exports.build

tools: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m models.tools.build

bench: $(VENV)/.dev
	-$(BIN)/python -m models.bench.scale
	$(BIN)/python -m models.bench.nodes
	$(BIN)/python -m models.bench.memory
	OMP_NUM_THREADS=1 $(BIN)/python -m models.bench.build

# Another Python with onnxruntime-gpu, torch, transformers and scipy: make gpu GPU_PYTHON=/path/to/python
GPU_VENV := .venv-gpu
GPU_PYTHON ?= $(GPU_VENV)/bin/python
gpu: $(GPU_PYTHON)
	$(GPU_PYTHON) -m models.bench.gpu

evidence: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m models.evidence.build --threads 1 --jobs 2 $(if $(GROUP),--group $(GROUP))

evidence-decoders: $(VENV)/.dev
	$(PIP) --no-deps --requirement models/decoders/requirements.txt
	$(BIN)/python -m models.decoders.build
	OMP_NUM_THREADS=1 $(BIN)/python -m models.evidence.decoders

evidence-quick: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m models.evidence.build --threads 2 --jobs 2 --quick

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# CUDA's libraries are large, so nothing is installed where there is no GPU.
$(GPU_VENV)/bin/python:
	@command -v nvidia-smi >/dev/null || { echo "nothing measured: there is no NVIDIA GPU here" >&2; exit 2; }
	$(PYTHON) -m venv $(GPU_VENV)
	$@ -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable ".[gpu,export,report]" "onnxruntime-gpu[cuda,cudnn]"

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[cpu,report]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tests/third_party.txt models/requirements.txt tests/serve/clients.txt | $(BIN)/python
	$(PIP) --editable ".[all,dev]"
	$(PIP) --no-deps --requirement tests/third_party.txt --requirement models/requirements.txt --requirement tests/serve/clients.txt
	touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(GPU_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov build dist site
