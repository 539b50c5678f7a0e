# The way in: `make` lists what there is. Every target sets itself up first, in .venv or in the active virtual environment.
# Written for GNU make from 3.81 on, which is what macOS has.

#: TARGET=       channel sparsity asked for, in (0, 1), such as 0.6; `export` also takes all and compact
#: BUDGET=       bounds that a level must meet, such as "flash=300KB ram=64KB macs=4M", instead of or after TARGET
#: LEVELS=       several targets for audit and export, such as LEVELS="0.3 0.6"; wins over TARGET
#: RECIPE=recipes/elpv96.yaml    what is trained and pruned, and how
#: DATA=         an image folder, list or id of a data set, in place of the recipe's
#: WEIGHTS=      what training starts from, in place of the recipe's: none, a torchvision name, a file or a folder
#: DEVICE=       a device that `export` must fit, such as stm32f746 (see `edgeprune devices`); alone, it is the budget
#: BUNDLE=       the bundle that `verify` checks; without it, every one in exports/
#: PYTHON=python3    the interpreter that .venv is made with: 3.11, 3.12 or 3.13
#: TORCH=auto    torch's build on Linux: auto (CPU only where there is no NVIDIA GPU), cpu, default (PyPI's, with CUDA)
RECIPE ?= recipes/elpv96.yaml
PYTHON ?= python3
TORCH ?= auto

# Goals run one after another in the order typed, with -j too: `make prune export` is a sequence.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup train census sensitivity prune audit export verify list
.PHONY: check format-check lint types layers test test-long bench format clean distclean

empty :=
space := $(empty) $(empty)
# A virtual environment's path may hold spaces; the backslash serves make and the shell alike.
VENV := $(subst $(space),\ ,$(or $(VIRTUAL_ENV),.venv))
BIN := $(VENV)/bin
STAMP := $(VENV)/.edgeprune-set-up

# Values reach the program as typed: not expanded by make ($(value)), not by the shell (single quotes).
quote = '$(subst ','\'',$(1))'
option = $(if $(value $(2)), $(1) $(call quote,$(value $(2))))
recipe = $(call quote,$(value RECIPE))
data = $(call option,--data,DATA)
device = $(call option,--device,DEVICE)
one_level = $(BIN)/edgeprune $(1) $(recipe)$(call option,--target,TARGET)$(call option,--budget,BUDGET)$(data)$(2)
several_levels = $(foreach level,$(value LEVELS),$(BIN)/edgeprune $(1) $(recipe) --target $(call quote,$(level))$(data)$(2) &&) true
# Tests of a file share what is costly to make, so that a file stays on one core.
on_each_core = -n auto --dist loadfile
each_level = $(if $(value LEVELS),$(several_levels),$(one_level))

help: ## this list
	@echo 'edgeprune: make prune export TARGET=0.6    from a fresh clone to exports/elpv96-s60/'
	@echo; echo 'Targets'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo; echo 'Variables'
	@awk '/^#: / { name = $$2; sub(/^#: [^ ]+ +/, ""); printf "  %-29s%s\n", name, $$0 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## the virtual environment with everything in it; says which versions differ from constraints.txt
	@$(same_python)
	@$(BIN)/python tools/environment.py check

train: setup ## train the recipe's baseline: models/<name>/
	$(BIN)/edgeprune train $(recipe)$(data)$(call option,--weights,WEIGHTS)

census: setup ## what of RECIPE's network can be pruned: groups of channels, shares of parameters, MACs and peak RAM
	$(BIN)/edgeprune census $(recipe)

sensitivity: setup ## prune each group alone, at several fractions: models/<name>-sensitivity/ with a table and a picture
	$(BIN)/edgeprune sensitivity $(recipe)$(data)

prune: setup ## prune step by step up to TARGET: models/<name>-s60/ and a run directory in runs/
	$(BIN)/edgeprune prune $(recipe)$(call option,--target,TARGET)$(call option,--budget,BUDGET)$(device)$(data)

audit: setup ## what a level costs: parameters, MACs, activations, file bytes
	$(call each_level,audit,$(device))

export: setup ## audit, export, verify and publish a level: exports/<name>-s60/
	$(call each_level,export,$(device))

verify: setup ## check published bundles again: BUNDLE, or every one in exports/
	@set -e; for bundle in $(if $(value BUNDLE),$(call quote,$(value BUNDLE)),exports/*/); do \
	  test -e "$$bundle" || { echo "edgeprune: there is no bundle $$bundle."; echo '  try: make prune export TARGET=0.6'; exit 1; }; \
	  $(BIN)/edgeprune verify "$$bundle" --require all; \
	done

list: setup ## the finished levels of RECIPE, and the published bundles
	$(BIN)/edgeprune list $(recipe)

check: format-check lint types layers test ## format, lint, types, layers and tests: what a commit must pass

format-check: setup ## is every file formatted?
	$(BIN)/ruff format --check --quiet .

lint: setup ## ruff's rules
	$(BIN)/ruff check --quiet .

types: setup ## mypy, strict
	$(BIN)/mypy

layers: setup ## which part may import which: the contracts in pyproject.toml
	$(BIN)/lint-imports --no-logo

test: setup ## every test but the long ones, a file on each core
	$(BIN)/python -m pytest $(on_each_core) -m 'not long and not timed'
	$(BIN)/python -m pytest tests -m 'timed and not long'

test-long: setup ## the long tests: many networks, kill loops, large data
	$(BIN)/python -m pytest $(on_each_core) -m long

bench: setup ## the short benchmarks: planning speed, and how exactly random budgets are met
	$(BIN)/python -W ignore benchmarks/planning_speed.py
	$(BIN)/python -W ignore benchmarks/budget_accuracy.py

format: setup ## format, and mend what ruff can mend
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format --quiet .

clean: ## remove what can be made again: caches, levels, exports. Never runs/, JOURNAL.md, a baseline or the shipped bundle
	test ! -d exports || find exports -mindepth 1 -maxdepth 1 ! -name person96 -exec rm -rf {} +
	rm -rf models/*-s[0-9][0-9] models/*-s[0-9][0-9]_[0-9]* models/*-b-[0-9a-f]* models/*-compact models/*-dense models/*-sensitivity models/*-latency .cache build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find edgeprune tests tools -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf .venv

$(STAMP): pyproject.toml constraints.txt tools/environment.py
	@$(require_version)
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python tools/environment.py install $(call quote,$(value TORCH))
	@touch '$@'

# A .venv that exists is never replaced behind anyone's back, so a PYTHON typed now may come too late.
ifeq ($(VIRTUAL_ENV)/$(origin PYTHON),/command line)
same_python = test "$$($(PYTHON) -V)" = "$$($(BIN)/python -V)" || { \
  echo "edgeprune: .venv holds $$($(BIN)/python -V), but PYTHON=$(PYTHON) is $$($(PYTHON) -V)."; \
  echo "  try: make distclean, then the same command again"; exit 2; }
endif

# Said before anything is done: torch and onnxruntime have no wheels outside these versions.
define require_version
for python in $(BIN)/python $(if $(VIRTUAL_ENV),,$(PYTHON)); do "$$python" -c '' 2>/dev/null && break; done; \
"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
  echo "edgeprune: Python 3.11, 3.12 or 3.13 is needed; $$python is $$("$$python" -V 2>/dev/null || echo 'not one that runs')."; \
  for other in python3.13 python3.12 python3.11; do $$other -V >/dev/null 2>&1 && break; done; \
  first=$(if $(VIRTUAL_ENV),'deactivate; ',$$(test -e .venv && echo 'make distclean; ')); \
  echo "  try: $${first}make $(MAKECMDGOALS) PYTHON=$$other"; exit 2; }
endef
