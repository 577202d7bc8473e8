# Everything a newcomer needs: `make demo` shows it, `make test` proves it. Both set up .venv themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SPOT   := $(BIN)/anomaly-spotter
DEMO   := outputs/demo
STAMP  := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format types coverage benchmark docs licences sbom notebooks system-deps clean distclean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Create .venv and install (done by the other targets when needed)

# torch first and alone, by its pin: a "+cpu" build of that version is preferred where pip finds one (PIP_EXTRA_INDEX_URL).
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Sample data, training, calibration, evaluation, overlays and report in under 3 minutes
	@mkdir -p $(DEMO)
	$(SPOT) sample --out $(DEMO)/data --category hazelnut
	$(SPOT) audit --data $(DEMO)/data --category hazelnut
	$(SPOT) train --data $(DEMO)/data --category hazelnut --preset demo --false-reject-rate 0.05 --out $(DEMO)
	$(SPOT) evaluate --bundle $(DEMO)/models/hazelnut-auto.spot --data $(DEMO)/data --category hazelnut \
		--json $(DEMO)/metrics/hazelnut-auto.json --report $(DEMO)/report
	$(SPOT) overlay --bundle $(DEMO)/models/hazelnut-auto.spot --out $(DEMO)/visualizations \
		$(DEMO)/data/hazelnut/test/*/000.png
	@echo "four-panel pictures: $(DEMO)/visualizations"
	@echo "report:              $(DEMO)/report/report.html"

test: lint coverage  ## Lint, types, tests with coverage

lint: $(STAMP)  ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread for each worker: threads that wait for each other spin, and two workers' would starve each other.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not alone" --cov --cov-report=
	$(BIN)/pytest -m alone --cov --cov-append --cov-report=term

benchmark: $(STAMP)  ## Training speed against plain fp32, and pixel metrics
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/pixel_metrics.py

docs: $(STAMP)  ## Documentation as web pages in site/
	$(BIN)/mkdocs build --strict

licences: $(STAMP)  ## List the licences of all dependencies; fails on GPL and AGPL
	$(BIN)/python docs/hooks/licences.py

sbom: $(STAMP)  ## Software bill of materials of .venv (CycloneDX), in dist/
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/sbom.cdx.json $(BIN)/python

notebooks: $(STAMP)  ## Execute the notebooks in place
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

system-deps:  ## Debian packages that some tests need (as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		curl g++ mosquitto chromium postgresql fonts-dejavu-core

clean:  ## Remove outputs and caches
	rm -rf $(DEMO) build dist site .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Also remove .venv
	rm -rf $(VENV)
