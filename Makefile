# bearer-proxy. `make demo` and `make test` do all their set-up themselves; `make help` lists the rest.
#
#   PYTHON=/path/to/python3.12   the interpreter for .venv (default: the first suitable of python3.13 ... python3)
#   ARGS="--listen :0"           more words for the demo, or for pytest: make test ARGS="-k routing -x"
#   WORKERS=4                    how many processes share the tests; they mostly wait, so more than there are cores
#   INSTALL=1                    lets make test and make bench install, through apt, programs that they need (CI=true too)

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
RUN := $(VENV)/bin/python
WORKERS ?= 4
PYTEST = $(RUN) -m pytest -n $(WORKERS) --dist loadfile
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
NODE_MODULES := $(patsubst %/package.json,%/node_modules/.installed,$(wildcard tests/real/package.json tests/real/*/package.json))

# A virtual environment whose interpreter is gone (an upgraded system, an interrupted set-up) is made anew.
$(shell $(RUN) -c '' 2>/dev/null || rm -f $(VENV)/.installed $(VENV)/.installed-dev)

.PHONY: help demo test test-all test-mutations bench bench-micro lint format clean programs programs-slow programs-bench

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-22s%s\n", $$1, $$2 }'

demo: $(VENV)/.installed ## an authorization server, a protected API and the gateway; real requests shown; Ctrl-C ends it
	@$(VENV)/bin/python -m proxy demo $(ARGS)

test: $(VENV)/.installed-dev programs $(NODE_MODULES) lint ## what the tests need, then lint, types and tests
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev programs-slow $(NODE_MODULES) lint ## the same and the slow suites: fuzzers, soak, mutations, image build
	@$(PYTEST) $(ARGS)

test-mutations: $(VENV)/.installed-dev ## takes out each defence of tests/mutations and expects a test to fail; ARGS="TLS" chooses
	@$(RUN) -m tests.mutations $(ARGS)

bench: $(VENV)/.installed-dev programs-bench ## the gateway beside nginx, HAProxy, Envoy, Go and aiohttp; ARGS="--help" tells more
	@$(RUN) -m tests.benchmarks $(ARGS)

bench-micro: $(VENV)/.installed-dev ## what each pure piece of the request path costs
	@$(RUN) -m pytest -p benchmark tests/benchmarks/micro -o python_files='bench_*.py' --benchmark-columns=min,median,ops --benchmark-sort=name $(ARGS)

lint: $(VENV)/.installed-dev ## style, format and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(VENV)/.installed-dev ## rewrites the code in the house format
	@$(RUN) -m ruff check --fix --quiet . || true
	@$(RUN) -m ruff format .

clean: ## removes all that make made
	@rm -rf $(VENV) .bench build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache $(dir $(NODE_MODULES))
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the virtual environment

# Prints which Python to use, or says what is missing and how to get it.
define FIND_PYTHON
old=; bare=; \
for name in $(PYTHONS); do \
	version=$$("$$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	if ! "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="; $$name is $$version"; \
	elif ! "$$name" -c 'import ensurepip, venv' 2>/dev/null; then bare=$${bare:-$$version}; \
	else python=$$name; break; fi; \
done; \
if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	echo "error: Python $$bare cannot make a virtual environment here (no ensurepip). Install that part, as root:" >&2; \
	echo "  apt-get install -y python$$bare-venv" >&2; exit 1; \
elif [ -z "$$python" ]; then \
	echo "error: Python 3.11 or newer is needed$$old. Install it, as root:" >&2; \
	echo "  apt-get install -y python3 python3-venv       Debian 12, Ubuntu 24.04 and newer" >&2; \
	echo "  apt-get install -y python3.11 python3.11-venv Ubuntu 22.04" >&2; \
	echo "or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
fi
endef

# $(1): what to install. The versions are those of requirements.txt, without the hashes, which an editable install cannot have.
define INSTALL_PACKAGE
$(RUN) -c '' 2>/dev/null || { $(FIND_PYTHON); \
	echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); } || exit 1; \
echo "installing $(1) into $(VENV)"; \
sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' requirements.txt >$(VENV)/constraints.txt; \
$(RUN) -m pip --quiet --no-input --disable-pip-version-check install -c $(VENV)/constraints.txt -e '$(2)' || { \
	echo "error: pip could not install $(1). It needs a package index: is there a network?" >&2; \
	echo "Behind a proxy: export HTTPS_PROXY=http://proxy:3128; with an index of your own: export PIP_INDEX_URL=https://..." >&2; \
	exit 1; }
endef

$(VENV)/.installed: pyproject.toml requirements.txt
	@$(call INSTALL_PACKAGE,bearer-proxy,.)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml requirements.txt
	@$(call INSTALL_PACKAGE,bearer-proxy and its tests' tools,.[dev])
	@touch $(VENV)/.installed $@

# ---- what tests need beyond pip: a test whose program is missing is skipped and says why; with CI=true it fails

# Debian's programs need root, so they are installed only where that was asked for.
programs:
	@if [ "$(CI)" = true ] || [ "$(INSTALL)" = 1 ]; then sh tests/real/install.sh; fi

programs-slow:
	@if [ "$(CI)" = true ] || [ "$(INSTALL)" = 1 ]; then sh tests/real/install.sh slow; fi

programs-bench:
	@if [ "$(CI)" = true ] || [ "$(INSTALL)" = 1 ]; then sh tests/real/install.sh bench; fi

%/node_modules/.installed: %/package.json
	@if command -v npm >/dev/null; then \
		echo "installing $< with npm"; \
		npm install --prefix $* --no-package-lock --no-audit --no-fund --loglevel=error && touch $@ \
			|| echo "npm could not install $<: its tests are skipped" >&2; \
	fi
