# A fresh machine with Python 3.11 needs nothing but these. Every target sets up .venv first; the second time that is instant.
#   make demo    the whole pipeline on small sizes, without a GPU, then its report        (runs/demo/report.html)
#   make test    all tests, in two processes: about 20 minutes on two cores          make lint    ruff and mypy
#   make learning    two problems with a known optimum, by every advantage estimator     (docs/learning.md)
#   make performance    every benchmark of docs/performance.md, one after the other, about fifteen minutes on an idle machine
#   make fleet    fleets of up to 512 simulated engines, with failures: twenty minutes   (docs/fleet.md)
#   make soak    what is too long for a test of every change: kills in every phase, the autoscaler, ten random kills in one
#                PPO run; about an hour, more beside other work
#   make demo PYTHON=/path/to/python3.11      another interpreter

VENV ?= .venv
PY := $(VENV)/bin/python
export VENV PYTHON

.PHONY: demo test lint learning performance fleet soak install clean

demo: install
	$(VENV)/bin/zj run configs/demo.yaml

# Two processes share the tests; those that measure how fast answers come run afterwards, alone.
test: install
	$(PY) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and not load" tests
	$(PY) -m pytest -q -m "load and not slow" tests/labelling

lint: install
	$(PY) -m ruff check zj_ray tests bench
	$(PY) -m mypy

# Longer than a test should be.
learning: install
	$(PY) -m bench.learning

# ZJ_REAL_DATA=/folder/with/train/jsonl measures padding and balance on real dialogues instead of made-up ones.
performance: install
	@for name in ceilings trl_ppo controller trainer sync checkpoint leak; do echo; echo "## $$name"; echo; $(PY) -m bench.$$name || exit 1; done

fleet: install
	$(PY) -m bench.fleet --draw

# A test that takes too long fails alone: pytest-timeout's other method would end all.
soak: install
	@echo "The longer tests, then ten random kills in one PPO run: about an hour on two cores."
	@status=0; \
	$(PY) -m pytest -q -s -m slow -o timeout_method=signal --durations=0 --durations-min=1 tests || status=1; \
	$(PY) -m bench.soak || status=1; exit $$status

install:
	@requirements/install.sh

# Keeps .venv and runs/: both take long to make again.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find zj_ray tests -name __pycache__ -type d -prune -exec rm -rf {} +
