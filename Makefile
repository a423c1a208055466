# Two commands on a fresh machine: `make demo` and `make test`. Both make the environment in .venv first.
.PHONY: demo test check bench env lint docs help

help:  ## what there is
	@grep -hE "^[a-z]+:.*##" $(MAKEFILE_LIST) | sed -E "s/:.*## /\t/"

PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

env:  ## the environment in .venv: Python 3.12 or 3.13, about 7 GB; TORCH_INDEX=… takes torch from another index
	@tools/make_env.sh

demo: env  ## the whole line on a synthetic corpus that it makes itself; ends with the table of systems
	egs/demo/run.sh

test: env lint  ## all tests
	$(PYTEST)

check: env lint  ## the quick round: style, types, and the tests that need no more than two seconds and no real speech
	$(PYTEST) -m "not slow and not real"

docs: env  ## the pages of docs/ as a site in build/site
	.venv/bin/python -m mkdocs build --strict

lint: env  ## style, shell and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/shellcheck -x egs/*.sh egs/*/*.sh tools/*.sh .ci/run
	.venv/bin/mypy

bench: env  ## all benchmarks against stock ESPnet and plain PEFT, on ../shared: about a quarter of an hour on two cores that do nothing else
	.venv/bin/python benchmarks/run.py
