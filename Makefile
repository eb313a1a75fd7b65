# Developers' chores. Running the desk and its tests is manage.py's:
#   python3 manage.py up        python3 manage.py test
PY := .venv/bin/python
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 12

.venv/.requirements-dev.txt.sha256: requirements-dev.txt
	python3 manage.py test --version >/dev/null

check:  ## lint, types, import contracts, migrations, rules of the tree: as the suite runs them
	python3 manage.py test tests/rules

format:  ## let ruff write
	$(PY) -m ruff check --fix . && $(PY) -m ruff format .

# A desk of its own for a moment, with nothing in it.
FRESH := COPYDESK_VAR=var/fresh python3 manage.py

catalogue:  ## write down what a fresh database has (config/catalogue.json), after a new migration or function
	rm -rf var/fresh && $(FRESH) migrate -v 0 && $(FRESH) catalogue && rm -rf var/fresh

released:  ## at a release: from here on its migrations run the same SQL for ever
	rm -rf var/fresh && $(FRESH) migrate -v 0
	$(FRESH) shell -c "from tests.core import test_migrations; test_migrations.release()" && rm -rf var/fresh

lock:  ## compile the locks anew from requirements*.in
	.venv/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	.venv/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt

bench:  ## measure, each figure as a ratio to a floor or a peer in the same run
	$(PY) -m bench

torture: .venv/.requirements-dev.txt.sha256  ## the long forms: 20 kills each, a million schedules; an hour and more
	COPYDESK_KILLS=20 COPYDESK_EXAMPLES=2000 COPYDESK_SCHEDULES=1000000 COPYDESK_DRILL_S=300 \
		python3 manage.py test -m "crash or model" -p no:randomly

simulate: .venv/.requirements-dev.txt.sha256  ## the bots in bad weather: make simulate SEED=0 SCHEDULES=20000 POLICY=guard; Ctrl-C ends it early
	@$(PY) -m copybot.simulate --seed $(or $(SEED),0) --schedules $(or $(SCHEDULES),20000) --policy $(or $(POLICY),guard)

coverage: .venv/.requirements-dev.txt.sha256  ## the share of lines and branches that the suite runs: make coverage ONLY=tests/trades
	@mkdir -p var/coverage
	python3 manage.py test $(ONLY) --cov --cov-report=term --cov-report=html:var/coverage/html

audit: .venv/.requirements-dev.txt.sha256  ## known weaknesses of what is locked, patterns of weak code, a bill of materials
	@$(PY) -m tests.security_audit

dates: .venv/.requirements-dev.txt.sha256  ## the suites at a month's end, on 29 February, as DST changes …: make dates AT="29 feb"
	@$(PY) -m tests.clock $(AT)

.PHONY: help audit catalogue check coverage dates format lock bench released simulate torture
