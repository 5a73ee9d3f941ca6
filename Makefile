# Every target sets up what it needs first; interrupted, the same command goes on where it stopped.
#   ACCELERATOR=cpu|cuda  which torch to fetch (chosen by itself: cuda where there is an NVIDIA GPU)
#   PYTHON=python3.11     the Python that .venv is made with

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# The tests on all cores, a file's one after another; those that make others wait begin first (tests/tiers.py).
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-test pretrain test lint types unit test-system torture gpu-wheels gpu-check doctor clean

help:         ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

pretrain: setup    ## from nothing to a pretrained encoder and a report: phantom radiographs, shards, DiRA, export
	@setup/pretrain.sh

test: setup-test lint types unit    ## lint, types, unit tests and one case of each kind of system test

test-system: setup-test    ## the rest of the system tests: whole runs, a fresh clone, the wheel
	@$(BIN)/pytest $(PARALLEL) -m "system and not torture and not gpu"

torture: setup-test    ## the full counts of kills and mutants; hours; interrupted, it goes on where it stopped
	@$(BIN)/pytest -m torture --resume

gpu-wheels:   ## with network: collect what a machine with a GPU may lack, to carry to it with this checkout
	@$(PYTHON) setup/gpu.py wheels

gpu-check:    ## on that machine, without network or set-up: the tests that need a GPU, and how fast a step is
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) setup/gpu.py check $(FLAGS)

doctor: setup    ## what this machine has, what it lacks, and the launch command to type
	@$(BIN)/python -m dira_scale.doctor

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

clean:        ## remove .venv and caches; what you produced in out/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find dira_scale tests -name __pycache__ -prune -exec rm -rf {} +
