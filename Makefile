# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
PACKAGES := backbones runtime classification search detection pipeline conf benchmarks

.PHONY: demo test test-slow gpu-check lint install detectron2 clean

demo: install  ## search, classify and detect on the embedded digits; about 3 minutes on 2 cores
	$(BIN)/python -m pipeline experiment=demo

test: $(VENV)/.test detectron2 lint  ## the suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.test detectron2  ## what takes minutes: kill loops, chains on real data
	$(BIN)/python -m pytest -m 'slow and not gpu'

# Where there is a GPU, the packages are often installed already: the python of the PATH runs, without a venv.
gpu-check: PYTHON = $(shell command -v python || command -v python3)
gpu-check:  ## on a CUDA GPU: every path of the networks against the CPU, then the table of speeds; under 8 minutes
	@$(PYTHON) -c "import sys, torch; sys.exit(None if torch.cuda.is_available() \
		else 'make gpu-check needs a CUDA GPU, and PyTorch finds none on this machine')"
	$(PYTHON) -m pytest -m gpu tests/gpu
	$(PYTHON) -m benchmarks.backbones --device cuda

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)

install: $(VENV)/.demo
detectron2: $(VENV)/.detectron2

$(VENV)/.venv:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=…')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable ".[demo,test,timm,export,detectron2]"
	touch $@

# Detectron2 publishes no wheel. This one is a third party's build of its main branch of April 2024 (three lines
# differ) for Python 3.10; its compiled part is ignored on other versions, and Faster R-CNN does not need it.
$(VENV)/.detectron2: requirements/detectron2.txt $(VENV)/.test
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --require-hashes --only-binary=:all: \
		--python-version 3.10 --target "$(SITE)" --requirement requirements/detectron2.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
