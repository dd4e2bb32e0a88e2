# `make demo` and `make test` need nothing but Python 3.11 and make; both use one .venv in this clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests of one file stay in one process: they share what takes long to make.
PARALLEL := -n logical --maxprocesses 8 --dist loadfile
PARTS := $(addprefix benchmarks/,contestants.py deployed_app.py digit_sets.py digit_studies.py emulation.py report.py subjects.py)
BENCHMARKS := $(filter-out $(PARTS),$(wildcard benchmarks/*.py))

.PHONY: help install demo demo-deployment test test-all test-long check bench proto clean
help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with every pinned dependency and this project

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Undertone needs Python 3.11 or later: say 'make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	@touch $(STAMP)

demo: install ## four sites adapt one model to real handwritten digits (some minutes)
	$(BIN)/undertone demo --out runs/demo-$$(date +%Y%m%d-%H%M%S)

demo-deployment: install ## a coordinator and five hospitals over TLS on this machine; needs nginx (apt install nginx-light); DATA=FOLDER for images of yours
	$(BIN)/undertone demo-deployment --out runs/deployment-$$(date +%Y%m%d-%H%M%S) $(if $(DATA),--data $(DATA))

test: install ## everything but the slow tests, a process of one thread for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: test ## every test but the long ones; fails, never skips, where a tool is missing (Debian: nginx-light, systemd)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not long and not alone" $(PARALLEL)
	$(BIN)/python -m pytest -m "alone and not long"

test-long: install ## what takes longer than test-all may
	$(BIN)/python -m pytest -m long

check: install ## style, types and the architecture tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/arch

bench: install ## every benchmark, as tables (hours); goes on after one that misses its target, and names it at the end
	@missed=; for script in $(BENCHMARKS); do $(BIN)/python $$script || missed="$$missed $$script"; done; \
	if [ -n "$$missed" ]; then echo "missed:$$missed"; exit 1; fi

proto: install ## generate the code of the gRPC messages again, after a change of node.proto
	cd common && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. undertone/wire/node.proto

clean: ## remove .venv, caches and runs/demo-* and runs/deployment-*; other runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo-* runs/deployment-*
