# Everything happens in $(VENV), which the targets create. Settings, with their defaults:
#   PYTHON=python3        the interpreter that creates the environment (3.11 or newer)
#   TORCH=torch==2.13.0   what to install as PyTorch, for example TORCH="torch==2.11.0"
#   FREQDIFF_BUILD=auto   what to compile: auto, python (nothing), cpu or cuda
#   ARGS=                 further arguments of the command behind demo, test, bench or train-tiny
PYTHON ?= python3
TORCH ?= torch==2.13.0
FREQDIFF_BUILD ?= auto
VENV ?= .venv
ARGS ?=
export FREQDIFF_BUILD

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Two targets at once would run two installs into one environment.
.NOTPARALLEL:
.DEFAULT_GOAL := help

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CREATED := $(VENV)/.freqdiff-created
SETTINGS := $(VENV)/.freqdiff-settings
RUN := $(VENV)/.freqdiff-run
DEV := $(VENV)/.freqdiff-dev
SANITIZED := build/sanitize
CXX_SOURCES := $(wildcard csrc/*.cpp csrc/*.h csrc/*.cu csrc/*.cuh)
# The folder itself is listed too: its time changes when a file is added or removed.
SOURCES := pyproject.toml setup.py $(wildcard csrc) $(CXX_SOURCES)

.PHONY: help demo test sanitize lint bench quality figure3 table-blur table1 ablations psf-family results train-tiny wheel clean FORCE

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(RUN) ## deblur a real photo; the pictures go to demo_output/
	$(PY) -m benchmarks.demo --output demo_output $(ARGS)

# The tests start many processes, which compile the sources once for all.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(DEV) ## run the tests, as many side by side as there are cores
	$(PY) -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

# Sanitized code in an ordinary Python: their run-time library has to come first, and that of C++ with
# it, or exceptions are not found. Python itself leaks.
sanitize: $(DEV) ## run the kernel tests under the address and undefined behaviour sanitizers of GCC
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1" \
	  FREQDIFF_BUILD=cpu $(PY) setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	PYTHONPATH=$(SANITIZED)/lib ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  $(VENV)/bin/pytest --capture=sys -k 'not triton and not emulated' tests/test_kernels_*.py $(ARGS)

lint: $(DEV) ## check style, types and C++ formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(if $(CXX_SOURCES),$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES))

bench: $(DEV) ## measure the kernels and whole photos; rows go to benchmarks/results/
	$(PY) -m benchmarks.kernels $(ARGS)
	$(PY) -m benchmarks.roofline
	$(PY) -m benchmarks.deblur
	$(PY) -m benchmarks.blursynth

quality: $(DEV) ## measure the shipped model: make quality SHARP=photos PAIRS="--pairs NAME BLURRED SHARP"
	$(PY) -m benchmarks.quality --sharp "$(SHARP)" $(PAIRS)
	$(PY) -m benchmarks.self_check --sharp "$(SHARP)"
	$(PY) -m benchmarks.steps --sharp "$(SHARP)" $(ARGS)

figure3: $(DEV) ## compare blur engines with real blur: make figure3 SHARP=photos REAL=photos GAN=folder
	$(PY) -m benchmarks.figure3 --sharp "$(SHARP)" --real "$(REAL)" --gan "$(GAN)" $(ARGS)

table-blur: $(DEV) ## train tiny on each kind of blur: make table-blur SHARP=photos PAIRS="--pairs NAME BLURRED SHARP"
	$(PY) -m benchmarks.table_blur --sharp "$(SHARP)" $(PAIRS) $(ARGS)

table1: $(DEV) ## methods side by side on test sets: make table1 ARGS="--dataset gopro FOLDER --ours tiny --peer runs/nafnet/model"
	$(PY) -m benchmarks.table1 $(ARGS)

ablations: $(DEV) ## what each part is worth: make ablations SHARP=photos VAL=held_out_photos
	$(PY) -m benchmarks.ablations --sharp "$(SHARP)" --val "$(VAL)" $(ARGS)

psf-family: $(DEV) ## fit the camera model to measured kernels: make psf-family ARGS="--shake KERNELS --lens FOLDER"
	$(PY) -m benchmarks.psf_family $(ARGS)

results: $(DEV) ## write the README's tables from benchmarks/results/*.json
	$(PY) -m benchmarks.readme

train-tiny: $(DEV) ## train a tiny model by the recipe of its card: make train-tiny DATA=folder of sharp photos
	@[[ -d "$(DATA)" ]] || { echo "DATA must name a folder of sharp photos: make train-tiny DATA=path/to/photos" >&2; exit 2; }
	$(PY) -m freqdiff train --config tiny --progressive --batch 32 --steps 16000 --data "$(DATA)" --output runs/tiny $(ARGS)

wheel: $(RUN) ## build the wheel into dist/
	rm -rf build
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove what was built; the environment's packages stay
	rm -rf build dist *.egg-info demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f kernels/*.so $(RUN) $(DEV)
	find benchmarks blursynth freqdiff kernels tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(CREATED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "FreqDiff needs Python 3.11 or newer, which '$(PYTHON)' is not: name another, as in make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot create a virtual environment: install its venv module (on Debian and Ubuntu the package python3-venv)" >&2; exit 2; }
	$(PIP) install 'setuptools>=77' 'pybind11>=2.13' ninja
	@touch $@

# Looked at in every run, but rewritten only when a setting differs from the last run's. The built
# extension goes then, because it may not fit the other PyTorch, or not be wanted at all.
$(SETTINGS): $(CREATED) FORCE
	@[[ "$$(cat $@ 2>/dev/null)" == "$(TORCH) $(FREQDIFF_BUILD)" ]] || { \
	  echo '$(PIP) install $(TORCH)'; \
	  $(PIP) install $(TORCH) && rm -f kernels/*.so && echo "$(TORCH) $(FREQDIFF_BUILD)" > $@; }

$(RUN): $(SETTINGS) $(SOURCES)
	$(PIP) install --no-build-isolation --editable '.[io]'
	@touch $@

# The project is there, so this adds what the tests need and builds nothing again.
$(DEV): $(RUN)
	$(PIP) install 'freqdiff-deblur[dev]'
	$(PIP) install --no-deps open-clip-torch  # for its vocabulary; it would pull in torchvision
	@touch $@
