# make demo    set up .venv and run the main job on the reference models   (ARGS="--data FOLDER" and the like)
# make test    set up .venv and run linter, type checker and tests         (PYTEST="-m slow" and the like)
#
# PYTHON=python3.12    the interpreter to make .venv with; by default the first of 3.11 to 3.13 on the path
# TORCH_INDEX=URL      another package index for torch, for example https://download.pytorch.org/whl/cpu

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $(name))))
TORCH_INDEX ?=
CPU_INDEX := https://download.pytorch.org/whl/cpu

VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --quiet
TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
READY := .venv/.edgekit-ready

.PHONY: demo test check format setup
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV_PYTHON) -m edgekit demo $(ARGS)

test: check
	$(VENV_PYTHON) -m pytest $(PYTEST)

check: $(READY)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

format: $(READY)
	$(VENV_PYTHON) -m ruff check --fix-only .

setup: $(READY)

# The build of llama.cpp and the large downloads run side by side. The build is in the foreground, so that Ctrl-C
# reaches the compilers; pip is in the background and ends with the shell.
$(READY): pyproject.toml Makefile edgekit/runtime/build.py | $(VENV_PYTHON)
	@# From 23.3 on, pip answers --dry-run from metadata, without downloading what it would install.
	@$(PIP) install 'pip>=24.2,<27'
	@echo "edgekit: checking what torch would install"
	@$(VENV_PYTHON) -c "$$REFUSE_CUDA" $(TORCH)
	@echo "edgekit: installing the core"
	@$(PIP) install --editable .
	@echo "edgekit: installing torch, transformers and the tools, while llama.cpp is built"
	@trap 'kill $$pip 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	{ $(PIP) install $(TORCH) && $(PIP) install --editable '.[export,dev]'; } & pip=$$!; \
	$(VENV_PYTHON) -m edgekit setup && wait $$pip
	@touch $@

$(VENV_PYTHON):
	@test -n "$(PYTHON)" || { echo "edgekit needs Python 3.11 to 3.13; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Without an NVIDIA GPU, gigabytes of CUDA libraries are of no use: ask pip first, and stop before the download.
define REFUSE_CUDA
import json, shutil, subprocess, sys
if sys.platform != 'linux' or shutil.which('nvidia-smi'):
    sys.exit()
ask = [sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--report', '-', *sys.argv[1:]]
report = subprocess.run(ask, stdout=subprocess.PIPE, text=True)
if report.returncode:
    sys.exit(report.returncode)
names = [item['metadata']['name'] for item in json.loads(report.stdout)['install']]
cuda = [name for name in names if name.startswith(('nvidia-', 'cuda-'))]
if cuda:
    sys.exit('edgekit: stopped before downloading CUDA libraries (' + ', '.join(cuda) + '):\n'
             'this machine has no NVIDIA GPU. Name a package index with a CPU build of torch:\n'
             '  make $(MAKECMDGOALS) TORCH_INDEX=$(CPU_INDEX)')
endef
export REFUSE_CUDA
