# make demo    set up .venv and run the main job on the reference models   (ARGS="--data FOLDER" and the like)
# make test    set up .venv and run the checks and the tests         (PYTEST="-m slow -n 0" and the like)
# make check   set up .venv and run linter, type checker and the check of imports
# make readme  write the generated parts of the READMEs anew
#
# PYTHON=python3.12    the interpreter to make .venv with; by default the first of 3.11 to 3.13 on the path
# TORCH_INDEX=URL      the package index for torch; by default PyTorch's CPU index where there is no NVIDIA GPU

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c \
	'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $(name))))
TORCH_INDEX ?=

VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --quiet
READY := .venv/.edgekit-ready
TORCH := .venv/torch.txt
LOG := .venv/install.log

.PHONY: demo test check format readme setup
.DELETE_ON_ERROR:

demo: $(READY)
	$(VENV_PYTHON) -m edgekit demo $(ARGS)

test: check
	$(VENV_PYTHON) -m pytest $(PYTEST)

check: $(READY)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	.venv/bin/lint-imports

format: $(READY)
	$(VENV_PYTHON) -m ruff check --fix-only .

# The tables of the READMEs that follow from the code; the tests compare.
readme: $(READY)
	$(VENV_PYTHON) .ci/generated_text.py

setup: $(READY)

# The build of llama.cpp and the large downloads run side by side. The build is in the foreground, so that Ctrl-C
# reaches the compilers; pip is in the background, writes into a log, and is ended with the shell.
$(READY): pyproject.toml Makefile .ci/torch_index.py $(addprefix edgekit/runtime/llama/,build.py build_inputs.py \
		build_requirements.txt) | $(VENV_PYTHON)
	@$(PIP) install 'pip>=24.2,<26.4' packaging
	@echo "edgekit: looking for the build of torch that fits this machine"
	@$(VENV_PYTHON) .ci/torch_index.py $(if $(TORCH_INDEX),--index '$(TORCH_INDEX)') > $(TORCH)
	@echo "edgekit: installing the core"
	@$(PIP) install --editable .
	@echo "edgekit: installing torch, transformers and the tools ($(LOG)), while llama.cpp is built"
	@trap '{ pkill -P $$pip; kill $$pip; } 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	{ $(PIP) install -r $(TORCH) && $(PIP) install --editable '.[export,dev]'; } > $(LOG) 2>&1 & pip=$$!; \
	$(VENV_PYTHON) -m edgekit setup || exit; \
	echo "edgekit: waiting for pip"; \
	wait $$pip || { cat $(LOG) >&2; exit 1; }
	@touch $@

$(VENV_PYTHON):
	@test -n "$(PYTHON)" || { echo "edgekit needs Python 3.11 to 3.13; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
