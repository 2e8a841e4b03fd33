# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
PIP := $(BIN)/python -m pip
# Of pyproject.toml, for `make demo` and `make test`.
EXTRAS_demo := demo
EXTRAS_test := demo,test,timm,export,deploy,detectron2,tensorboard,ray,supervision,video
PACKAGES := backbones runtime classification search detection pipeline conf benchmarks celltransfer.py

.PHONY: demo test test-slow fuzz test-install gpu-check lint install detectron2 lock audit clean

demo: install  ## search, classify and detect on the embedded digits; 2 minutes on 2 cores, once installed
	$(BIN)/python -m pipeline experiment=demo

test: $(VENV)/.test detectron2 lint  ## the suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.test detectron2  ## what takes minutes: kill loops, chains on real data; PART=detection: those alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not gpu and not install' -n auto --maxprocesses 4 \
		--dist worksteal --durations=10 tests/$(PART)

fuzz: TARGET ?= genotype
fuzz: SECONDS ?= 60
fuzz: $(VENV)/.test  ## TARGET=coco SECONDS=600: broken files for one reader, guided by coverage; tests/fuzz/run.py
	$(PIP) install --quiet --no-build-isolation --editable ".[fuzz]"
	$(BIN)/python tests/fuzz/run.py $(TARGET) -max_total_time=$(SECONDS)
	$(BIN)/python tests/fuzz/run.py $(TARGET) --values -max_total_time=$(SECONDS)

test-install: $(VENV)/.test detectron2  ## the wheel in environments of its own, each extra alone, the next Hydra
	$(BIN)/python -m pytest -m install tests/install

# Where there is a GPU, the packages are often installed already: the python of the PATH runs, without a venv.
gpu-check: PYTHON = $(shell command -v python || command -v python3)
gpu-check:  ## on a CUDA GPU: every path of the networks against the CPU, then a table of speeds; under 9 minutes
	$(PYTHON) -m benchmarks.gpu_check --markdown gpu-check.md

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)

install: $(VENV)/.demo  ## what the demo needs, in .venv
detectron2: $(VENV)/.detectron2  ## the second engine, in .venv

$(VENV)/.venv:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=…')"
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The locked versions, each held to its hash; sdists are built with the locked setuptools. Nothing is resolved, which
# saves seconds; `pip check` follows. An editable install is refused beside hashes, so this repository comes last.
# `make clean`, then RANGES=1 for another build of PyTorch or newer versions: whatever pyproject.toml allows.
ifdef RANGES
install = $(PIP) install --quiet --editable ".[$(EXTRAS_$(1))]"
else
define install
@echo "Installing requirements/$(1).txt into $(VENV), which takes a minute or two."
$(PIP) install --quiet --require-hashes --requirement requirements/build.txt
$(PIP) install --quiet --no-build-isolation --no-deps --require-hashes --requirement requirements/$(1).txt
$(PIP) install --quiet --no-build-isolation --no-deps --editable .
endef
endif

# Detectron2's wheel names old versions of packages that it does not need.
check = $(PIP) check >$(VENV)/check.txt; test -s $(VENV)/check.txt && \
	! grep --invert-match --regexp "^sal-detectron2 " --regexp "^No broken " $(VENV)/check.txt

$(VENV)/.demo: pyproject.toml requirements/build.txt requirements/demo.txt $(VENV)/.venv
	$(call install,demo)
	@$(check)
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.demo
	$(call install,test)
	@$(check)
	@touch $@

# Detectron2 publishes no wheel. This one is a third party's build of its main branch of April 2024 (three lines
# differ) for Python 3.10; its compiled part is ignored on other versions, and Faster R-CNN does not need it.
$(VENV)/.detectron2: requirements/detectron2.txt $(VENV)/.test
	$(PIP) install --quiet --upgrade --no-deps --require-hashes --only-binary=:all: \
		--python-version 3.10 --target "$(SITE)" --requirement requirements/detectron2.txt
	@touch $@

# pip's own constraints hold for the lock, too, where they are set.
CONSTRAINTS = $(shell $(PIP) config list | sed -n "s/.*\.constraint='\(.*\)'/\1/p")
COMPILE = $(VENV)/tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate $(addprefix --constraint ,$(CONSTRAINTS))

lock: $(VENV)/.tools  ## newest versions inside the ranges of pyproject.toml to requirements/*.txt, for every platform
	$(COMPILE) --all-extras --no-emit-package atheris pyproject.toml --output-file requirements/test.txt
	$(COMPILE) --constraint requirements/test.txt --extra demo pyproject.toml --output-file requirements/demo.txt
	echo "setuptools>=77" | $(COMPILE) --constraint requirements/test.txt - --output-file requirements/build.txt

audit: $(VENV)/.tools  ## known vulnerabilities of the locked versions; asks a service on the internet
	$(VENV)/tools/bin/python requirements/audit.py requirements/test.txt

$(VENV)/.tools: $(VENV)/.venv
	$(BIN)/python -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet "uv>=0.9,<1" "pip-audit>=2.10,<3"
	@touch $@

clean:  ## .venv and what builds leave
	rm -rf $(VENV) build *.egg-info
