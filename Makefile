# make serve        set up everything and serve on http://127.0.0.1:8000
# make test         set up everything and run all tests
# make test-faults  the tests that break things, in their long form (about 15 minutes; some need root)
# make lint         ruff and mypy
# make bench        the front end beside vLLM's own server (about 15 minutes)
# make bench-rows   rows: the recorder alone, and ten million rows beside ten thousand (minutes, 16 GB of disk)
# make test-fresh   'make serve', 'make test' and the Dockerfile's steps in a Debian that has nothing yet (as root;
#                   an hour; less with FRESH='image' or FRESH_TESTS='tests/adapters': tests/fresh/__main__.py)
# make install      only set up
#
# Honoured: HOST PORT MODEL ENGINE DATABASE_URL DATA_DIR WEB_ROOT (see 'chatglm-gateway settings'),
#           AUTHENTICATION=yes|no, REGISTRATION=open|closed, VARIANT=auto|cpu|cuda|none (which vLLM is installed),
#           PYTHON (which interpreter)

BIN := .venv/bin
VARIANT ?= auto
export PYTHON

# npm packages, for the tests that have them as their clients; they are skipped where these are not.
NODE_PACKAGES := $(addsuffix /node_modules/.package-lock.json,tests/end_to_end/node tests/browser)

.PHONY: serve test test-faults test-fresh lint bench bench-rows install

serve: install
	@exec $(BIN)/chatglm-gateway serve \
	    $(if $(HOST),--host '$(HOST)') $(if $(PORT),--port '$(PORT)') \
	    $(if $(MODEL),--model '$(MODEL)') $(if $(ENGINE),--engine '$(ENGINE)') \
	    $(if $(DATA_DIR),--data-dir '$(DATA_DIR)') $(if $(WEB_ROOT),--web-root '$(WEB_ROOT)') \
	    $(if $(filter yes,$(AUTHENTICATION)),--authentication) \
	    $(if $(filter no,$(AUTHENTICATION)),--no-authentication) \
	    $(if $(REGISTRATION),--registration '$(REGISTRATION)')

test: install $(if $(and $(shell command -v node 2>&1),$(shell command -v npm 2>&1)),$(NODE_PACKAGES))
	@tests/run.sh

test-faults: install
	FAULTS=long $(BIN)/python -m pytest -s --timeout 7200 tests/faults

test-fresh:
	@$(or $(PYTHON),python3) -m tests.fresh $(FRESH)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m benchmarks.frontend

bench-rows: install
	$(BIN)/python -m benchmarks.rows

$(NODE_PACKAGES): %/node_modules/.package-lock.json: %/package-lock.json
	@cd $* && npm ci --ignore-scripts --no-audit --no-fund --silent && touch node_modules/$(@F) \
	    || echo 'npm could not install what $* needs: tests will be skipped'

install:
	@deploy/install.sh $(VARIANT)
