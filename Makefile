# Everything runs in .venv, which the first command makes. Give PYTHON=python3.12 to choose the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# what `make check` runs: the tests that train no network through the command and write no hundreds of weight files
CHECKED := $(addprefix tests/,data inference losses metrics models optim utils test_errors.py test_imports.py test_visualize.py)
UNCHECKED := $(addprefix --ignore=tests/models/,test_complexity.py test_convert.py test_hub.py weights/test_layouts.py)
PYTEST := $(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 --dist worksteal
RUN := runs/quickstart/0

.DEFAULT_GOAL := help
.PHONY: help install install-test install-docs quickstart check test lint types pytest docs test-slow fuzz test-slurm test-docker notebooks catalog format

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## make .venv with hrseg in it

install-test: $(VENV)/.installed-test

install-docs: $(VENV)/.installed-docs

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "==> installing hrseg into $(VENV) (PyTorch's packages are about 6 GB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "==> installing what the tests need"
	$(PIP) --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-test
	@echo "==> installing what the documentation needs"
	$(PIP) --constraint constraints.txt --editable '.[docs]'
	@touch $@

quickstart: install  ## train, test and predict on generated street scenes (5 minutes on 2 cores)
	@echo "==> training on generated street scenes"
	$(BIN)/hrseg fit --config experiments/quickstart.yaml --run_dir $(RUN)
	@echo "==> predicting"
	$(BIN)/hrseg predict --ckpt_path $(RUN)/checkpoints/best.ckpt --trainer.limit_predict_batches 4
	@echo "==> testing on scenes that the network has not seen"
	$(BIN)/hrseg test --ckpt_path $(RUN)/checkpoints/best.ckpt
	@echo "checkpoint:    $(RUN)/checkpoints/best.ckpt"
	@echo "predictions:   $(RUN)/predict"
	@echo "contact sheet: $(RUN)/test/contact_sheet.png"
	@echo "TensorBoard:   $(BIN)/tensorboard --logdir $(RUN)"

test: install-test lint types docs pytest  ## lint, type checks, documentation and tests (under 12 minutes on 2 cores)

check: install-test lint types  ## lint, type checks and the quick tests: no processes, no trainings (90 seconds on 2 cores)
	@echo "==> quick tests"
	$(PYTEST) -m "not slow and not slurm and not process" $(CHECKED) $(UNCHECKED)

lint: install-test
	@echo "==> lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	@echo "==> types"
	$(BIN)/mypy hrseg experiments/benchmarks

pytest: install-test
	@echo "==> tests, one process per core"
	$(PYTEST)

docs: install-docs  ## build the documentation into docs/_build/html; warnings are errors
	@echo "==> documentation"
	rm -rf docs/_build
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	$(BIN)/python -m sphinx -W --keep-going --nitpicky --quiet -b html docs docs/_build/html; \
	else echo "left out: Sphinx 9 needs Python 3.11"; fi

test-slow: install-test  ## the tests that need minutes each
	$(BIN)/python -m pytest -q -m slow

fuzz: install-test  ## strange command lines and broken files for every verb; SECONDS=600 SEED=1
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.running --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1)

test-slurm: install-test  ## a real SLURM of two nodes on this machine; Debian, as root
	bash tests/slurm/cluster.sh install
	$(BIN)/python -m pytest -q -m slurm tests/slurm

test-docker:  ## build the container image and train in it; Debian, as root, 10 GB in ~/.cache
	bash tests/docker/build.sh

notebooks: install-test  ## run the notebooks again and save their outputs (5 minutes on 2 cores)
	$(BIN)/python -m tests.notebooks.running

catalog: install  ## count parameters and multiply-adds of all networks anew (10 minutes on 2 cores)
	$(BIN)/python -m hrseg.models.complexity

format: install-test  ## let ruff put the files in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
