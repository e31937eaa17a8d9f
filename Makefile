# Everything is started from here; `make` alone prints what there is.
PYTHON ?= python3
# Processes that share the tests out; most tests wait for servers most of the time.
WORKERS ?= 2

supervisor := PYTHONPATH=localstack:. .venv/bin/python -P -m supervisor
demo := PYTHONPATH=localstack:layers/common:. .venv/bin/python -P -m demo
emulator_python := .local/env/emulator/bin/python
typed := $(wildcard functions/* layers/common/ticketra localstack/setup localstack/supervisor \
	localstack/demo localstack/awscli_tail infra_cdk docs/openapi tests)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-plugin check up down status logs deploy destroy clean reconcile dlq bank admin rotate-keys void-tickets verify-ticket fuzz faults bench bench-payments bench-cold bench-lists proto openapi lock setup require-setup

help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

demo: setup ## Set up, start, deploy and sell a ticket over HTTP
	@$(demo)

test: check ## Run every check and every test; WORKERS=2
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-all test-plugin; \
		status=$$?; cat .local/log/test-plugin.log; exit $$status

test-all:
	@.venv/bin/python -P -m pytest --numprocesses=$(WORKERS)

# In the shade of the others, and shown after them, so that the two do not mix.
test-plugin:
	@$(emulator_python) -P -m pytest -q localstack/plugin/tests > .local/log/test-plugin.log 2>&1

check: setup ## Check formatting, lint, types and the direction of imports
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy --no-error-summary $(typed)
	@cd localstack/plugin && $(CURDIR)/.venv/bin/mypy --no-error-summary
	@PYTHONPATH=functions:layers/common:localstack:. .venv/bin/lint-imports > .local/imports.log || { cat .local/imports.log; exit 1; }

up: setup ## Start the servers and LocalStack; what runs is left alone
	@$(supervisor) up

down: require-setup ## Stop the servers and LocalStack
	@$(supervisor) down

status: require-setup ## Say how each server is
	@$(supervisor) status

logs: require-setup ## Show logs; NAME="booking postgres" picks some, FOLLOW=1 goes on
	@$(supervisor) logs $(NAME) $(if $(FOLLOW),--follow)

deploy: setup ## Start what does not run, then deploy the CDK app to LocalStack
	@$(supervisor) up
	@$(supervisor) deploy

destroy: require-setup ## Remove the deployed CDK app from LocalStack
	@$(supervisor) destroy

clean: require-setup ## Stop everything and remove its data; ALL=1 removes the environments too
	@$(supervisor) clean $(if $(ALL),--all)

reconcile: require-setup ## Compare stock, bookings and payments; REPAIR=1 corrects the stock, resumes stuck payments
	@$(supervisor) reconcile $(if $(REPAIR),--repair)

dlq: require-setup ## List the payment worker's dead letters; SHOW=id, REPLAY=id or all, DISCARD=id or all
	@$(supervisor) dlq $(if $(SHOW),--show='$(SHOW)') $(if $(REPLAY),--replay='$(REPLAY)') \
		$(if $(DISCARD),--discard='$(DISCARD)')

bank: require-setup ## Show how the mock bank behaves; SLOW=ms LATE=ms TIME_OUT=% FAIL=% TWICE=% change that, RESET=1 ends it
	@$(supervisor) bank $(if $(SLOW),--slow='$(SLOW)') $(if $(TIME_OUT),--time-out='$(TIME_OUT)') \
		$(if $(FAIL),--fail='$(FAIL)') $(if $(TWICE),--twice='$(TWICE)') $(if $(LATE),--late='$(LATE)') \
		$(if $(RESET),--reset)

admin: require-setup ## Make a registered user an admin: EMAIL=ada@example.com; REVOKE=1 takes the role
	@test -n "$(EMAIL)" || { echo "Whom? make admin EMAIL=ada@example.com" >&2; exit 2; }
	@$(supervisor) admin $(if $(REVOKE),--revoke) -- '$(EMAIL)'

rotate-keys: require-setup ## Sign tokens (KIND=tickets: tickets) with a new key; DROP=1 drops keys whose tokens are gone, DROP=now all but the newest
	@$(supervisor) rotate-keys $(if $(KIND),--kind '$(KIND)') $(if $(DROP),--drop $(if $(filter now,$(DROP)),now,retired))

void-tickets: require-setup ## List an event's void tickets for its doors: EVENT=id > void.txt
	@test -n "$(EVENT)" || { echo "Which event? make void-tickets EVENT=id > void.txt" >&2; exit 2; }
	@$(supervisor) void-tickets -- '$(EVENT)'

verify-ticket: require-setup ## Check a ticket's code as a door does, offline: CODE=eyJ… KEYS=jwks.json; without CODE each line typed
	@PYTHONPATH=layers/common .venv/bin/python -P -m ticketra.door --keys '$(or $(KEYS),jwks.json)' \
		$(if $(EVENT),--event '$(EVENT)') $(if $(VOID),--void '$(VOID)') $(if $(CODE),-- '$(CODE)')

fuzz: setup ## Compare the deployed API with its document, at length; EXAMPLES=200 SEED=random
	@seed=$(or $(SEED),$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')); echo "SEED=$$seed"; \
		FUZZ_EXAMPLES=$(or $(EXAMPLES),200) FUZZ_SEED=$$seed \
		.venv/bin/python -P -m pytest -q tests/e2e/test_document.py

faults: setup ## Kill the payment worker at 200 points, kill RabbitMQ, take it away for 60 s; KILLS=200 OUTAGE=60 SEED=random
	@seed=$(or $(SEED),$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')); echo "SEED=$$seed"; \
		FAULT_KILLS=$(or $(KILLS),200) FAULT_OUTAGE_S=$(or $(OUTAGE),60) FAULT_SEED=$$seed \
		.venv/bin/python -P -m pytest -q -s tests/faults

bench: setup ## Measure the booking core beside an empty call; ROUNDS=5 SECONDS=4 STORED=0
	@PYTHONPATH=functions:layers/common:localstack:. .venv/bin/python -m tests.load.bench \
		--rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),4) --stored $(or $(STORED),0)

bench-payments: setup ## Measure payments beside bare consume-and-ack, and bookings over HTTP; ROUNDS=5 SECONDS=2
	@PYTHONPATH=functions:layers/common:localstack:. .venv/bin/python -P -m tests.load.payments \
		--rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),2)

bench-cold: setup ## Measure cold starts beside an empty handler; ROUNDS=7
	@PYTHONPATH=functions:layers/common:localstack:. .venv/bin/python -m tests.load.cold \
		--rounds $(or $(ROUNDS),7)

bench-lists: setup ## Measure pages of events, at the beginning of a list and deep in it; ROUNDS=300
	@PYTHONPATH=functions:layers/common:localstack:. .venv/bin/python -P -m tests.load.lists \
		--rounds $(or $(ROUNDS),300)

proto: setup ## Generate the gRPC stubs from proto/
	@PATH=.venv/bin:$$PATH .venv/bin/python -m grpc_tools.protoc -I proto --python_out=layers/common \
		--grpc_python_out=layers/common --mypy_out=quiet:layers/common \
		--mypy_grpc_out=quiet:layers/common proto/ticketra/booking/v1/booking.proto

openapi: setup ## Write the API's document (OpenAPI) from the code; review what changed
	@PYTHONPATH=functions:layers/common:. .venv/bin/python -P -m docs.openapi

lock: setup ## Compile the lock files again; UPGRADE=1 takes newer versions
	@PYTHONPATH=localstack .venv/bin/python -P -m setup.lock $(if $(UPGRADE),--upgrade)

setup:
	@command -v $(PYTHON) > /dev/null || { echo "Install Python 3.11, 3.12 or 3.13 (apt-get install python3 python3-venv)." >&2; exit 1; }
	@PYTHONPATH=localstack PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m setup

require-setup:
	@test -x .venv/bin/python || { echo "Nothing is set up here yet; make up does that." >&2; exit 1; }
