# medunlearn: everything from a bare checkout with Python 3.11+ and make.
#
#   make demo      five simulated hospitals unlearn a topic; report in runs/
#   make test      the test suite
#   make lint      ruff, mypy --strict and the import rules
#   make kills     1,000 kills at random moments: of a charging ledger, and of an audit log
#   make fuzz      Atheris at every loader and parser, FUZZ_SECONDS each; ARGS="--jobs 2"; its corpus is kept
#   make wycheproof VECTORS=DIR   Wycheproof's files through our primitives (DIR: testvectors_v1)
#   make masking-long   10,000 masked rounds, 10,000 sequences, 1,000 kills
#   make results   the long experiments behind docs/results.md
#   make wrong-labels   the experiment with wrong labels behind docs/results.md
#   make deploy-check   lint and render deploy/ with hadolint, kubectl, systemd-analyze …
#   make protos    Python code of the gRPC schemas in common/medunlearn_common/service
#   make deployed  the tests that start a real SuperLink and real nodes
#   make rehearsal coordinator and three hospitals as real processes, to an adopted adapter
#   make soak      200 rounds of such a federation, a kill every tenth; ARGS="--rounds 50"
#   make failures  kills, cuts and attacks on such a federation (root, for namespaces)
#   make clean     remove what was built (not runs/ and not the model cache)

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for candidate in python3.11 python3.12 python3.13 python3; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then echo $$candidate; break; fi; done)

SEEDS ?= 0 1 2
PLANS ?= $(wildcard benchmarks/plans/*.toml)
# Processes of the test suite.
WORKERS ?= 2
ARGS ?=
FUZZ_SECONDS ?= 60
VECTORS ?=

.PHONY: demo test lint kills masking-long wycheproof fuzz results wrong-labels protos deployed rehearsal soak failures \
	deploy-check clean install help

help:
	@sed -n 's/^#\(   make\)/\1/p' Makefile

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt .ci/make_venv.py
	@test -n "$(PYTHON)" || { echo "medunlearn needs Python 3.11 or newer" >&2; exit 2; }
	@$(PYTHON) .ci/make_venv.py $(VENV)
	@touch $@

demo: $(STAMP)
	@$(BIN)/medunlearn simulate $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

kills: $(STAMP)
	@rm -f .kills.db; $(BIN)/python tests/faults/ledger_kills.py .kills.db 1000 $(firstword $(SEEDS)); \
	status=$$?; rm -f .kills.db .kills.db-journal; exit $$status
	@folder=$$(mktemp -d) && $(BIN)/python tests/faults/audit_log_kills.py $$folder 1000 \
	$(firstword $(SEEDS)); status=$$?; rm -rf $$folder; exit $$status

fuzz: $(STAMP)
	@$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python -m pip install -q \
		--constraint constraints.txt --editable ".[fuzz]" || true
	@$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(ARGS)

wycheproof: $(STAMP)
	@$(BIN)/python tests/wycheproof/run.py "$(VECTORS)"

masking-long: $(STAMP)
	MASKING_ROUNDS=10000 MASKING_SEQUENCES=10000 MASKING_KILLS=1000 \
		$(BIN)/python -m pytest -q tests/masking/test_masking_rounds.py $(ARGS)

# Each plan with each seed; a run that is already complete is not repeated.
results: $(STAMP)
	@test -n "$(PLANS)" || { echo "no plans in benchmarks/plans" >&2; exit 2; }
	@set -e; for plan in $(PLANS); do for seed in $(SEEDS); do \
		out=runs/results/$$(basename $$plan .toml)-seed$$seed; \
		if test -f $$out/result.json; then echo "$$out is complete"; continue; fi; \
		if test -d $$out; then $(BIN)/medunlearn simulate --resume $$out; \
		else $(BIN)/medunlearn simulate $$plan --seed $$seed --out $$out $(ARGS); fi; \
	done; done
	@$(BIN)/medunlearn compare runs/results/*

wrong-labels: $(STAMP)
	@$(BIN)/python benchmarks/wrong_labels.py $(ARGS)

# Linters have their own environment: nothing that runs needs them.
.venv-deploy/.installed: deploy/requirements-lint.txt
	@$(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/pip install -q -r $<
	@touch $@

deploy-check: $(STAMP) .venv-deploy/.installed
	@deploy/check.sh .venv-deploy/bin $(BIN)/python

protos: $(STAMP)
	@cd common && ../$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. \
		--grpc_python_out=. medunlearn_common/service/*.proto

deployed: $(STAMP)
	@MEDUNLEARN_DEPLOYED=1 $(BIN)/python -m pytest -q tests/service $(ARGS)

rehearsal: $(STAMP)
	@$(BIN)/medunlearn rehearse $(ARGS)

soak: $(STAMP)
	@$(BIN)/python benchmarks/soak.py $(ARGS)

failures: $(STAMP)
	@MEDUNLEARN_FAILURES=1 $(BIN)/python -m pytest -q tests/service/failures $(ARGS)

clean:
	rm -rf $(VENV) .venv-deploy dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
