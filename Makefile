# Everything a developer or a pipeline does here. `make help` lists it; docs/development.md explains it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The interpreter that .venv is made with; empty: the first of python3, python3.14 … python3.11 that will do.
PYTHON ?=
# The API's port in `make run`.
PORT ?= 8000
# Processes that the tests are spread over, and further arguments for pytest (`make test ARGS="-k jobs"`).
WORKERS ?= auto
ARGS ?=
# The database that the integration and contract tests run on alone: sqlite, postgres, mariadb or pgbouncer; empty: each
# test on its own kinds.
DATABASE ?=
MESSAGE ?=
# Examples of each operation in `make fuzz`, and whether `make openapi` may break clients (BREAKING=yes).
EXAMPLES ?= 500
BREAKING ?=

BIN := .venv/bin
SETUP := .venv/.setup
SOURCES := packages/scalable_fastapi_system/src packages/domains/src services hack grafana

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(SETUP) ## Make .venv with everything that is needed (done by the other targets too)

$(SETUP): hack/dev/setup $(addprefix requirements/,bootstrap.txt dev.txt redis.txt) $(wildcard packages/*/pyproject.toml)
	@PYTHON='$(PYTHON)' hack/dev/setup
	@touch $@

.PHONY: run
run: $(SETUP) ## Run everything here: Postgres, Redis, API, worker (PORT=8000)
	@exec $(BIN)/python -m hack.dev.run --port '$(PORT)'

.PHONY: stop
stop: $(SETUP) ## Stop a `make run` from elsewhere, or what a killed one left
	@$(BIN)/python -m hack.dev.stop

# A test that sits in C code, where pytest's own limit does not reach, ends its process with the stacks of it; xdist
# names the test and goes on with another process.
HANGS = -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

.PHONY: test
test: $(SETUP) ## Run all tests that need no cluster (ARGS="-k name", WORKERS=auto, DATABASE=mariadb)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(HANGS) \
		$(if $(DATABASE),--database '$(DATABASE)' tests/integration tests/contract) $(ARGS)

.PHONY: test-databases
test-databases: $(SETUP) ## Run all tests that use a database on MariaDB, on SQLite and through PgBouncer
	@status=0; for database in mariadb sqlite pgbouncer; do \
		echo "=== $$database"; \
		$(MAKE) --no-print-directory test DATABASE=$$database || status=$$?; \
	done; exit $$status

.PHONY: test-unit
test-unit: $(SETUP) ## Run the tests that open no socket
	$(BIN)/pytest tests/unit $(ARGS)

.PHONY: test-integration
test-integration: $(SETUP) ## Run the tests on real Postgres and Redis
	$(BIN)/pytest tests/integration $(ARGS)

.PHONY: fuzz
fuzz: $(SETUP) ## Try every operation of the API with many examples (EXAMPLES=500)
	FUZZ_EXAMPLES='$(EXAMPLES)' $(BIN)/pytest tests/integration/api_contract $(ARGS)

.PHONY: coverage
coverage: $(SETUP) ## Run the tests and say which lines and branches they did not run (WORKERS=auto)
	$(BIN)/coverage erase
	@status=0; $(BIN)/pytest -n $(WORKERS) --dist loadgroup $(HANGS) --cov --cov-report= $(ARGS) || status=$$?; \
		$(BIN)/coverage report || status=$$?; exit $$status

.PHONY: bench
bench: $(SETUP) ## Measure the platform beside bare frameworks and one written by hand (ARGS="--rounds 1")
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: bench-growth
bench-growth: $(SETUP) ## Measure growth with rows, connections, routes, processes (ARGS="--write")
	$(BIN)/python -m tests.bench.growth $(ARGS)

.PHONY: bench-footprint
bench-footprint: $(SETUP) ## Measure start-up, memory, imports and sizes (ARGS="--write")
	$(BIN)/python -m tests.bench.footprint $(ARGS)

.PHONY: bench-overload
bench-overload: $(SETUP) ## Measure what slow clients and three times the possible load cost others
	$(BIN)/python -m tests.bench.overload $(ARGS)

.PHONY: bench-profile
bench-profile: $(SETUP) ## Measure where a request's time goes, layer by layer (ARGS="--works me,read")
	$(BIN)/python -m tests.bench.profile $(ARGS)

.PHONY: bench-jobs
bench-jobs: .venv-bench/.setup ## Measure the job queue beside arq, saq, taskiq and procrastinate (ARGS="--rounds 1")
	$(BIN)/python -m tests.bench.jobs $(ARGS)

.PHONY: bench-caches
bench-caches: .venv-bench/.setup ## Measure the cache beside cashews (ARGS="--rounds 1")
	$(BIN)/python -m tests.bench.caches $(ARGS)

.venv-bench/.setup: $(SETUP) hack/dev/setup requirements/bench.txt
	@hack/dev/setup bench
	@touch $@

.PHONY: check
check: $(SETUP) ## Check format, lint, types, imports, dashboards, reference pages, chart, workflows, scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict $(SOURCES)
	@echo "importing every test" && found=$$($(BIN)/pytest --collect-only -qq tests 2>&1) || { echo "$$found"; exit 1; }
	$(BIN)/lint-imports
	$(BIN)/python grafana/generate --check
	$(BIN)/python -m hack.reference.settings --check
	$(BIN)/python -m hack.reference.openapi --check
	PATH="$(CURDIR)/$(BIN):$$PATH" hack/check-chart
	PATH="$(CURDIR)/$(BIN):$$PATH" hack/check-workflows
	$(BIN)/shellcheck $$(git grep -lE '^#!/.*sh$$')

.PHONY: format
format: $(SETUP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

.PHONY: openapi
openapi: $(SETUP) ## Write docs/openapi.json; refuses what breaks clients (BREAKING=yes)
	@$(BIN)/python -m hack.reference.openapi $(if $(BREAKING),--breaking)

.PHONY: settings
settings: $(SETUP) ## Write docs/settings.md from the Settings models
	@$(BIN)/python -m hack.reference.settings

.PHONY: lock
lock: $(SETUP) ## Pin the newest versions that requirements/*.in allow, with hashes
	cd requirements && for name in bootstrap api worker dev redis bench; do \
		../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-header $$name.in -o $$name.txt; \
	done

.PHONY: cluster
cluster: $(SETUP) ## Start a cluster here and install the chart in it (CLUSTER_PROVIDER=kind|hostkube)
	@$(BIN)/python hack/cluster up
	@$(BIN)/python hack/cluster install

.PHONY: cluster-down
cluster-down: $(SETUP) ## Remove that cluster and all that it left
	@$(BIN)/python hack/cluster down

.PHONY: e2e
e2e: $(SETUP) ## Run the end-to-end tests as a client of a cluster, made for them if there is none
	@$(BIN)/python hack/cluster e2e $(if $(ARGS),-- $(ARGS))

.PHONY: compose
compose: ## Start everything with Docker Compose, behind nginx with TLS (ports: compose/.env)
	@compose/init
	docker compose --env-file compose/.env up --build --detach --wait
	@echo "The API answers at https://localhost:$$(docker compose --env-file compose/.env port nginx 8443 | sed 's/.*://') (docs/compose.md)"

.PHONY: compose-upgrade
compose-upgrade: ## Build the images anew and put them in place without a gap (docs/compose.md)
	docker compose --env-file compose/.env build
	@compose/upgrade

.PHONY: compose-down
compose-down: ## Stop what Compose started; its data stays
	docker compose --env-file compose/.env down

.PHONY: chaos
chaos: $(SETUP) ## Kill, freeze and cut off real processes in twenty ways; nothing accepted may be lost
	@$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: migration
migration: $(SETUP) ## Write a migration from the difference to the models (MESSAGE="add orders")
	@$(BIN)/python -m hack.dev.migration '$(MESSAGE)'

.PHONY: new-domain
new-domain: $(SETUP) ## Write a domain that works: folder, migration, tests, registered (NAME=orders)
	@$(BIN)/python -m hack.dev.new_domain '$(NAME)' $(if $(SINGULAR),'$(SINGULAR)')

.PHONY: fresh-clone
fresh-clone: ## Do what a newcomer does, in a fresh clone with an empty HOME (before a release)
	hack/dev/fresh-clone

.PHONY: clean
clean: ## Remove .venv and caches; the data of `make run` (.local) stays
	rm -rf .venv .venv-bench .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -not -path './.local/*' -prune -exec rm -rf {} +
