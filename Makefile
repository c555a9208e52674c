# Two commands, each from a clean clone: `make results` and `make test`. `make lab` opens copies in JupyterLab.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export TQDM_MININTERVAL ?= 1

.PHONY: results test test-browser train site bench mutants rehearse gpu-check gpu-wheels lab readme
.DELETE_ON_ERROR:

results: .venv/ready
	$(BIN)/python -m lib.run

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/python -m pytest -q -n logical --maxprocesses=4 --dist=loadfile tests
	TQDM_DISABLE=1 $(BIN)/python -m pytest -q --nbval-lax --nbval-cell-timeout=300 --nbval-kernel-startup-timeout=120 notebooks

# JupyterLab in headless Chromium (Debian: `apt-get install chromium`): every notebook, and every explorer. Where it is
# installed, .ci/run runs three of them: ARGS="-k 'objects or broken or slot5'".
test-browser: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright==1.65.2
	TQDM_DISABLE=1 $(BIN)/python -m pytest -q -m "" tests/browser $(ARGS)

# All trainings and measurements that are missing or that other code made, into what is committed. Hours to a day on two
# cores, alone on the machine; stopped or killed, it goes on where it was when it is called again.
train: .venv/ready
	$(BIN)/python -m lib.run --remeasure --out .

# The committed notebooks and pages as static HTML in runs/site, without running anything.
site: .venv/ready
	$(BIN)/python -m lib.site

# Speed beside other packages, as ratios, into figures/benchmarks.*: up to an hour, alone on two cores. They are
# installed beside what .venv has, which stays as it is. The page is written of what could be measured.
bench: .venv-bench/ready
	-@$(MAKE) .venv-tfds/ready  # where it can be installed
	@mkdir -p runs && rm -f runs/benchmarks.json
	TQDM_DISABLE=1 .venv-bench/bin/python -m pytest -q -p no:cacheprovider -o python_files='bench_*.py' \
		--benchmark-columns=rounds --benchmark-json=runs/benchmarks.json tests/benchmarks; status=$$?; \
	SLOTS_OUT=$(if $(ROUNDS),runs/tried,.) $(BIN)/python tests/benchmarks/page.py runs/benchmarks.json && exit $$status

.venv-bench/ready: .venv/ready Makefile
	$(PYTHON) -m venv .venv-bench
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/workbook.pth"
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check pytest-benchmark==5.3.1 \
		slot-attention==1.5.2 tfrecord==1.14.6 torchmetrics==1.9.0
	touch $@

.venv-tfds/ready: Makefile
	$(PYTHON) -m venv .venv-tfds
	.venv-tfds/bin/python -m pip install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 tensorflow-datasets==4.9.10
	touch $@

# Wrong measures and wrong models, one at a time: the replay of their notebooks must turn red.
mutants: .venv/ready
	TQDM_DISABLE=1 $(BIN)/python -m pytest -q -m "" tests/test_replay.py

# paper on real formats, gpu on a pretend accelerator, 200 kills, full disks, several processes: all that stands between
# here and there.
rehearse: .venv/ready
	TQDM_DISABLE=1 $(BIN)/python -m pytest -q -m "" tests/rehearsal tests/test_workers.py tests/test_parallel.py

# On a machine with a GPU, with its own Python: nothing is installed. gpu-wheels fetches small packages for it.
gpu-check:
	$(PYTHON) tests/gpu/check.py

gpu-wheels: .venv/ready
	$(BIN)/python tests/gpu/check.py --bring runs/gpu-wheels

# The numbers in README, log and notebooks, from figures/results.
readme: .venv/ready
	$(BIN)/python tests/refill.py

lab: .venv/ready
	$(BIN)/python notebooks/lab/open.py $(ARGS)

# --no-deps: the lock is complete, and pip need not resolve what is resolved already.
.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and "Python 3.11.4 or later is needed, this is " + sys.version.split()[0] + "; say make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
