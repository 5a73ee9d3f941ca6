# Every target sets up what it needs first; after an interruption, run the same command to resume.
#   ACCELERATOR=cpu|cuda  which torch to install (default: cuda if there is an NVIDIA GPU); cpu: also pretrain on the CPU
#   PYTHON=python3.11     the Python for .venv

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Test files in parallel on all cores; system tests start first (tests/tiers.py). Those wait more than they compute, for
# processes, kills and SLURM, so two of them share a core.
FILES := --dist loadfile --no-loadscope-reorder
PARALLEL := -n auto --maxprocesses 8 $(FILES)
SHARED := -n $(shell echo $$((2 * $$(nproc)))) --maxprocesses 8 $(FILES)

.DEFAULT_GOAL := help
.PHONY: help setup setup-test pretrain pretrain3d test lint types unit test-system test-rest torture gpu-wheels gpu-check \
	doctor docs clean

help:         ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

pretrain: setup    ## from nothing to a pretrained encoder and a report: phantom radiographs, shards, DiRA, export
	@setup/pretrain.sh

pretrain3d: setup    ## the same on volumes: phantom CT of the chest, DiRA in 3D
	@setup/pretrain.sh 3d

test: setup-test lint types unit    ## lint, types, unit tests and one case of each kind of system test

test-system: setup-test    ## the rest of the system tests: whole runs, a fresh clone, the wheel
	@$(BIN)/pytest $(SHARED) -m "system and not torture and not gpu"

test-rest: setup-test      ## after `make test`: what it skipped for want of a package or program, and all system tests
	@$(BIN)/pytest $(SHARED) --rest -m "not torture and not gpu"

torture: setup-test    ## the full counts of kills and mutants; hours; resumes after an interruption
	@$(BIN)/pytest -m torture --resume

gpu-wheels:   ## with network: collect packages that a GPU machine may lack, to copy there with this checkout
	@$(PYTHON) setup/gpu.py wheels

gpu-check:    ## on that machine, without network or set-up: measure its speed (FLAGS="--parts tests": the tests that need a GPU)
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) setup/gpu.py check $(FLAGS)

doctor: setup    ## what this machine has and lacks, and the launch command to use
	@$(BIN)/python -m dira_scale.doctor

docs:         ## the documentation as a site, with the API reference, in out/docs
	@$(PYTHON) setup/install.py docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo out/docs/index.html

setup:        ## only set up .venv (the other targets do so themselves)
	@$(PYTHON) setup/install.py

setup-test:
	@$(PYTHON) setup/install.py test deepspeed

lint: setup-test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup-test
	@$(BIN)/mypy

unit: setup-test
	@$(BIN)/pytest $(PARALLEL) -m "not system and not torture and not gpu"

clean:        ## remove .venv and caches; out/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find dira_scale tests -name __pycache__ -prune -exec rm -rf {} +
