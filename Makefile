# make demo, make test: all that a fresh clone needs is Python 3.11 or newer (and, for the zoo of real models, Debian).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
export LESSEN_ZOO ?= $(CURDIR)/.cache/zoo
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PEERS := $(patsubst benchmarks/peers/%.txt,.venv-peers/%/.done,$(wildcard benchmarks/peers/*.txt))

.PHONY: demo test quick zoo lint examples bench bench-peers clean

demo: $(VENV)/.all
	$(BIN)/lessen demo --out demo-out

test: $(VENV)/.test zoo
	$(BIN)/python -m pytest $(ARGS)

quick: $(VENV)/.test zoo
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

zoo: $(LESSEN_ZOO)/.fetched

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

examples: $(VENV)/.test zoo
	bash scripts/run_examples.sh $(BIN)

bench: $(VENV)/.bench zoo
	PYTHONPATH=tests bash scripts/run_benchmarks.sh $(BIN)/python $(ARGS)

bench-peers: $(VENV)/.bench $(PEERS)

clean:
	rm -rf $(VENV) .venv-peers .cache demo-out

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[all]'
	touch $@

$(VENV)/.%: pyproject.toml constraints.txt $(VENV)/.all
	$(PIP) -e '.[all,$*]'
	touch $@

# A missing item is a skipped test with the reason (a failed one where CI is set), never a failed fetch.
$(LESSEN_ZOO)/.fetched: tests/zoo/items.py | $(VENV)/.test
	PYTHONPATH=tests $(BIN)/python -m zoo.fetch && touch $@ || true

# A peer whose dependencies conflict with ours lives alone; one that won't install is a row with the reason.
.venv-peers/%/.done: benchmarks/peers/%.txt constraints.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip install --quiet -c constraints.txt -r $< 2>.venv-peers/$*/why.txt || true
	touch $@
