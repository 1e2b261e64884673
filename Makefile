# The two commands of the README are `make demo` and `make test`; each sets itself up.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready
# What the environment depends on: change one of these and it is brought up to date.
INPUTS := requirements/lock.txt $(wildcard registry/pyproject.toml core/pyproject.toml plugins/*/pyproject.toml)
DISTRIBUTIONS := $(dir $(wildcard registry/pyproject.toml core/pyproject.toml plugins/*/pyproject.toml))

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick lint format types contracts check torture faults bench lock clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(SETUP)  ## Train a small ResNet on real handwritten digits
	@$(BIN)/python -m mmx_vision.demo

test: $(SETUP)  ## Run the whole test suite
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup

test-quick: $(SETUP)  ## Run the tests that take less than ten seconds each
	@$(BIN)/python -m pytest -q -n 2 -m "not slow and not network"

lint: $(SETUP)  ## Check style
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

format: $(SETUP)  ## Bring the sources into the house style
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

types: $(SETUP)  ## Check types
	@$(BIN)/mypy --no-error-summary registry/src core/src plugins/*/src

contracts: $(SETUP)  ## Check that every module imports only lower floors
	@$(BIN)/lint-imports --no-logo >$(VENV)/contracts.log || { cat $(VENV)/contracts.log; exit 1; }

check: lint types contracts  ## All checks but the tests

torture: $(SETUP)  ## Kill and resume runs 200 times; the end must be the same to the last bit
	@$(BIN)/python -m pytest -q tests/core/faults --torture 200

faults: $(SETUP)  ## Run the short form of the tests with failing disks and killed processes
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m faults tests/core/faults

bench: $(SETUP)  ## Print how we compare with our peers, as ratios
	@for file in $(filter-out benchmarks/peers.py benchmarks/pairs.py,$(wildcard benchmarks/*.py)); do \
	  $(BIN)/python $$file $$(case $$file in (*/loop.py) echo --hooks;; esac) || exit 1; done

lock: $(SETUP)  ## Write requirements/lock.txt from requirements/dev.in
	@$(BIN)/pip install -q --upgrade -r requirements/dev.in
	@{ echo "# Written by 'make lock' from dev.in; every version that the project is tested with."; \
	   $(BIN)/pip freeze --exclude-editable --exclude pip --exclude wheel --exclude mmengine | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; \
	 } > requirements/lock.txt

clean:  ## Remove the environment and what runs left behind
	@rm -rf $(VENV) .venv-downstream work_dirs .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# pip says nothing unless something is wrong; versions come from the lock file alone.
$(SETUP): $(INPUTS)
	@command -v $(PYTHON) >/dev/null || { echo "mmx needs Python 3.11: '$(PYTHON)' is not on the PATH (try 'make PYTHON=/path/to/python3.11 demo')"; exit 1; }
	@test -x $(BIN)/python || { echo "Setting up $(VENV) (once, a minute or two) ..."; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip --disable-pip-version-check install -q -r requirements/lock.txt 2>$(VENV)/setup.log || { cat $(VENV)/setup.log; exit 1; }
	@$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation $(addprefix -e ,$(DISTRIBUTIONS)) 2>>$(VENV)/setup.log || { cat $(VENV)/setup.log; exit 1; }
	@touch $@

.PHONY: coverage
coverage: $(SETUP)  ## Measure which lines the tests run
	@$(BIN)/python -m pytest -q -n 2 --dist loadgroup --cov --cov-report=term:skip-covered

# The released packages live in an environment of their own: they pin what `make test` does not.
DOWN := .venv-downstream
.PHONY: downstream
downstream: $(DOWN)/.ready  ## Run released packages that stand on MMEngine's API
	@OMP_NUM_THREADS=1 $(DOWN)/bin/python -m pytest -q tests/downstream

$(DOWN)/.ready: requirements/downstream.txt requirements/downstream-deps.txt $(INPUTS)
	@test -x $(DOWN)/bin/python || { echo "Setting up $(DOWN) (once, a minute or two) ..."; $(PYTHON) -m venv $(DOWN); }
	@$(DOWN)/bin/python -m pip --disable-pip-version-check install -q -c requirements/lock.txt -r requirements/downstream-deps.txt 2>$(DOWN)/setup.log || { cat $(DOWN)/setup.log; exit 1; }
	@$(DOWN)/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation -r requirements/downstream.txt 2>>$(DOWN)/setup.log || { cat $(DOWN)/setup.log; exit 1; }
	@$(DOWN)/bin/python -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation $(addprefix -e ,registry core plugins/mmx_mmengine) 2>>$(DOWN)/setup.log || { cat $(DOWN)/setup.log; exit 1; }
	@touch $@
