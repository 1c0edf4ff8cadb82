# The verbs of this project, the same on a desk and in CI. Needs Python 3.11, make and git.

PYTHON := $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
RIVALS := .venv/.rivals
RUN := runs/mobilenetv2

.PHONY: help setup demo test test-slow test-gpu check format house bench families reliability audit docs pictures notebooks package clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## .venv with the pinned versions; kept while pyproject.toml and constraints.txt are

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found; install Python 3.11"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; install Python 3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## the whole story on generated images, into demo/
	$(BIN)/apercu demo --out demo

test: export OMP_NUM_THREADS = 1
test: $(READY) ## all tests of minutes, and the examples in docstrings
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --doctest-modules tests src/apercu

test-slow: $(READY) ## trainings of minutes
	$(BIN)/python -m pytest -m 'slow and not gpu'

test-gpu: $(READY) ## what needs a CUDA device
	$(BIN)/python -m pytest -m gpu

check: $(READY) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

house: $(READY) ## names, docstrings, files and imports of the package in figures
	$(BIN)/python tests/house.py

bench: $(RIVALS) ## start-up, speed and memory, beside what people use now
	$(BIN)/python benchmarks/speed.py --out docs/reference/speed.json
	@failed=; for name in startup rise grad_cam flipping road attacks halftone export runtime serving guard video batch; do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "error: promises not kept:$$failed"; exit 1; }

families: $(READY) ## what works with each family of classifiers, into docs/reference/families.md; an hour
	$(BIN)/python benchmarks/families.py

reliability: $(READY) ## the server under load, faults and hostile input: half an hour
	$(BIN)/python benchmarks/reliability.py load kills disconnects slow sigterm disk_full fuzz --table

audit: $(READY) ## known weaknesses of the pinned packages; needs the network
	@$(BIN)/pip-audit --progress-spinner off -r constraints.txt --no-deps --disable-pip --strict || \
	  { echo "error: weaknesses are listed above, or the advisories (pypi.org) cannot be reached"; exit 1; }

$(RIVALS): $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

docs: $(READY) ## the manual as a site, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pictures: $(READY) ## draw the pictures of the manual again
	$(BIN)/python docs/pictures.py $(wildcard $(RUN))

notebooks: $(READY) ## execute the tutorials again, and store what they show
	$(BIN)/python docs/notebooks/run.py

package: $(READY) ## wheel and sdist into dist/, tried with every extra by itself; needs the network
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m pytest tests/test_package.py -m 'slow or not slow'

clean: ## what make left behind; .venv stays
	rm -rf demo build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
