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
# reaches the compilers; pip is in the background and is ended with the shell.
$(READY): pyproject.toml Makefile edgekit/runtime/llama/build.py | $(VENV_PYTHON)
	@$(PIP) install 'pip>=24.2,<26.4'
	@echo "edgekit: checking what torch would install"
	@$(VENV_PYTHON) -c "$$REFUSE_CUDA" $(TORCH)
	@echo "edgekit: installing the core"
	@$(PIP) install --editable .
	@echo "edgekit: installing torch, transformers and the tools, while llama.cpp is built"
	@trap '{ pkill -P $$pip; kill $$pip; } 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	{ $(PIP) install $(TORCH) && $(PIP) install --editable '.[export,dev]'; } & pip=$$!; \
	$(VENV_PYTHON) -m edgekit setup && wait $$pip
	@touch $@

$(VENV_PYTHON):
	@test -n "$(PYTHON)" || { echo "edgekit needs Python 3.11 to 3.13; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Without an NVIDIA GPU, gigabytes of CUDA libraries are of no use. So pip is asked first what the torch that it would
# choose requires: from the index's metadata, else from the wheel's first bytes; nothing is installed.
define REFUSE_CUDA
import json, shutil, subprocess, sys
from pip._vendor.packaging.requirements import Requirement
if sys.platform != 'linux' or shutil.which('nvidia-smi'):
    sys.exit()
ask = [sys.executable, '-m', 'pip', '-qq', 'install', '--dry-run', '--no-deps', '--use-feature=fast-deps',
       '--report', '-', *sys.argv[1:]]
report = subprocess.run(ask, stdout=subprocess.PIPE, text=True)
if report.returncode:
    sys.exit(report.returncode)
chosen = json.loads(report.stdout)['install']
if not chosen:  # installed already
    sys.exit()
torch = chosen[0]['metadata']
needs = map(Requirement, torch.get('requires_dist', []))
needs = [need.name for need in needs if need.marker is None or need.marker.evaluate({'extra': ''})]
cuda = [name for name in needs if name.startswith(('nvidia', 'cuda'))]
if cuda:
    sys.exit(f"edgekit: stopped before downloading CUDA libraries: torch {torch['version']} from this index needs "
             f"{', '.join(cuda)}, and this machine has no NVIDIA GPU.\n"
             "Name a package index with a CPU build of torch:\n"
             "  make $(MAKECMDGOALS) TORCH_INDEX=$(CPU_INDEX)")
endef
export REFUSE_CUDA
