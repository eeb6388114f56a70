# make demo    set everything up, then do the main job
# make test    set everything up, then pass the tests, on all cores;  make test ALL=1  every combination of their cases
# make sanitize   the tests of kernels and engine, built with AddressSanitizer, UndefinedBehaviorSanitizer, ThreadSanitizer
# make mutants  puts faults into copies of the kernels, one at a time, to see that a test finds each; an hour on two cores
# make bench   microbenchmarks of the CPU kernels and the engine, under two minutes on a quiet machine
# make results   the study of bench/grids and its report; docs/report.md says how long it takes
# make docs    the site, from docs/, README.md and the docstrings, into site/
# make lint    check formatting, lint, types and the walls between the floors;  make format  mend what can be mended

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TORCH := torch==2.13.0
CLEANRL := cleanrl==1.2.0
OLDEST_TRITON := triton==3.6.0
SOURCES := $(shell find csrc python_tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')
ACTORS ?= ../shared/actors/published
NATIVE := CMakeLists.txt $(filter csrc/%,$(SOURCES))

.PHONY: demo test sanitize mutants bench results docs lint format clean

demo: $(READY)
	$(BIN)/snnkern demo

# Workers take tests in their order, one by one: those that take longest stand first, those that matter least last.
# Microbenchmarks, which would be disabled with a warning, are `make bench`.
test: $(READY)
	$(BIN)/python -m pytest -n auto --maxschedchunk 1 -p no:benchmark $(if $(ALL),--all-cases)

# Each has a tree of its own; builds and tests of both share the cores.
sanitize: $(READY)
	$(MAKE) --jobs 2 --output-sync sanitize-address,undefined sanitize-thread

sanitize-%: $(READY)
	python_tests/sanitize.sh $(BIN)/python $*

# ONLY='cuda-* if-*' chooses some of them by name.
mutants: $(READY)
	cd python_tests && ../$(BIN)/python -m mutants --jobs $(or $(JOBS),2) $(foreach name,$(ONLY),--only '$(name)')

bench: $(READY)
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-columns=min,median,iqr,rounds,iterations

results: $(READY)
	SNNKERN=$(BIN)/snnkern ACTORS=$(ACTORS) bench/results.sh

# Without the variable, its theme advertises a successor at every build.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/clang-format --dry-run --Werror $(SOURCES)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(SOURCES)

clean:
	rm -rf $(VENV) build site *.egg-info snnkern/*.so

# The pinned torch goes first, so that no other package brings a release of its own choice. CleanRL asks for an older Python
# and older packages; those of its scripts that tests run do without. Kernels are compiled with the oldest Triton, too.
# What actors see is drawn by EGL or OSMesa, which are no Python packages: on Debian libegl1 and libgl1-mesa-dri.
$(READY): requirements.txt pyproject.toml setup.py $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH) and what requirements.txt pins; the first time takes a few minutes."
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(TORCH) -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python $(CLEANRL)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/triton-oldest "$(OLDEST_TRITON); sys_platform == 'linux'"
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(BIN)/snnkern info
	touch $@
