# Every target sets up what it needs. Nothing outside this directory is written but packages and their caches.

# What is passed on to the command behind demo, bench and the tests: make demo ARGS="--help"
ARGS =
# How long each target is fuzzed.
SECONDS = 10
# Which schedules are simulated: one, or a range of them.
SEEDS = 1..2000

# The part of the lines and branches, in percent, that the tests without servers have to run: two below what they reached
# when this was last set. The rest talks to servers, and is tested by `make test`.
FLOOR = 73

# Those tests: the twins in memory keep the same contracts as the adapters of real servers.
WITHOUT_SERVERS = tests/unit tests/property tests/simulation/test_simulation.py $(wildcard tests/contract/test_*_memory.py tests/contract/test_*_file.py)

# How long a soak lasts, and what its faults are drawn from.
MINUTES = 20
SEED = 1

READY = .venv/.ready

# Commands start a second sooner when Python may keep what it has compiled, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup check docs test test-quick e2e bench bench-api bench-growth bench-guard bench-peers demo simulate fuzz audit clean coverage build soak failures

help:
	@echo 'make setup       .venv from uv.lock; again only when that or pyproject.toml changed'
	@echo 'make demo        the whole of it on embedded servers, games and all'
	@echo 'make check       lint, format, types, import rules'
	@echo 'make docs        docs/ as a site, in build/site'
	@echo 'make test        all tests, with Redis and Apache Kafka; installs them when run as root'
	@echo 'make test-quick  the tests that need neither Java nor an installed server'
	@echo 'make e2e         the page in a real browser, alone; screenshots in build/screenshots'
	@echo 'make simulate    the engine on simulated servers that fail: SEEDS=1..2000, or the seed that failed'
	@echo 'make soak        everything on real servers, a fault every few seconds: MINUTES=20 SEED=1'
	@echo 'make fuzz        records, settings, addresses and questions that a fuzzer makes up: SECONDS=10 for each target'
	@echo 'make audit       SBOM, licences and known vulnerabilities of the packages that are shipped'
	@echo 'make failures    docs/failures.md: bring about every fault that the tests know, and write down how it went'
	@echo 'make bench       the benchmarks'
	@echo 'make bench-api   answers over HTTP, and how soon readers see a commit'
	@echo 'make bench-growth how cost grows: with predicates, streams, windows, history'
	@echo 'make bench-guard has a ratio become worse than that in the repository'
	@echo 'make bench-peers beside what one could take instead, each in an environment of its own'
	@echo 'make coverage    which lines the tests without servers run, with a floor'
	@echo 'make build       the wheel and the source archive, in dist'
	@echo 'make clean       remove everything that the other targets made'
	@echo 'ARGS="…" is passed on: make test-quick ARGS="tests/unit -k series"'

setup: $(READY)

$(READY): uv.lock pyproject.toml tools/setup tools/uv.txt
	@tools/setup
	@touch $@

check: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

test: $(READY)
	@tools/install-servers
	@.venv/bin/python -m tests.support.servers
	.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-quick: $(READY)
	.venv/bin/pytest -m 'not kafka' $(ARGS)

e2e: $(READY)
	@tools/install-servers
	@mkdir -p build/screenshots
	CRASHFOLD_SCREENSHOTS=build/screenshots .venv/bin/pytest tests/e2e/browser $(ARGS)

simulate: $(READY)
	@.venv/bin/python -m tests.simulation $(SEEDS) $(ARGS)

soak: $(READY)
	@tools/install-servers
	@.venv/bin/python -m tests.soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

fuzz: $(READY)
	@.venv/bin/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

audit: $(READY)
	@.venv/bin/python tools/audit.py

failures: $(READY)
	@tools/install-servers
	.venv/bin/pytest -m fault --failures $(ARGS)
	.venv/bin/python -m tests.support.failures

bench: $(READY)
	.venv/bin/crashfold bench $(ARGS)

bench-api: $(READY)
	.venv/bin/crashfold bench api api-live $(ARGS)

bench-peers: $(READY)
	@tools/install-servers
	.venv/bin/python -m benchmarks.peers $(ARGS)

bench-growth: $(READY)
	@tools/install-servers
	.venv/bin/crashfold bench growth $(ARGS)

bench-guard: $(READY)
	@tools/install-servers
	.venv/bin/crashfold bench guard $(ARGS)

demo: $(READY)
	@.venv/bin/crashfold demo $(ARGS)

coverage: $(READY)
	HYPOTHESIS_PROFILE=few .venv/bin/pytest -n 2 --dist loadfile --timeout 900 $(WITHOUT_SERVERS) \
		--cov=engine --cov=projections --cov=schemas --cov-branch \
		--cov-report=term:skip-covered --cov-report=html:build/coverage --cov-fail-under=$(FLOOR) $(ARGS)

build: $(READY)
	.cache/uv/bin/uv build --quiet --out-dir dist

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
