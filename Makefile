# Every target installs what it needs first: `make demo` is all that a fresh machine needs (Python 3.11 or newer).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Two cores are what we test on; each process computes with one thread (tests/conftest.py).
JOBS   ?= 2

# Installing is done once for each version of what is to be installed: a stamp file for each set of extras.
INSTALLED       := $(VENV)/.installed
INSTALLED_DEV   := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

.PHONY: help install demo test check-slow lint format bench bench-gal bench-kse bench-trace bench-latency zoo bench-kernel bench-kse-latency bench-gated bench-decouple demo-decouple clean
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(INSTALLED_DEV): pyproject.toml setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(INSTALLED)

$(INSTALLED_BENCH): pyproject.toml setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(INSTALLED)

install: $(INSTALLED)  ## create .venv and install squeeze there

# A network this small gains nothing from a second thread, and loses much where others compute on the same cores.
demo: export OMP_NUM_THREADS = 1
demo: $(INSTALLED)  ## train a small net on real digits, prune it with GAL to half of its MACs, show what that bought
	$(BIN)/squeeze demo --force --out model.pt
	$(BIN)/squeeze prune --method gal model.pt --force --out runs/demo

# Epochs are few, so that it takes under three minutes.
demo-decouple: export OMP_NUM_THREADS = 1
demo-decouple: $(INSTALLED)  ## train a small net on real digits, put gates into it, show what they say and spare
	$(BIN)/squeeze demo --force --out model.pt
	$(BIN)/squeeze prune --method decouple --macs 0.5 model.pt --finetune-epochs 0 --force --out runs/demo-decouple
	$(BIN)/squeeze paths runs/demo-decouple/model.safetensors --force --out runs/demo-decouple
	$(BIN)/squeeze detect runs/demo-decouple/model.safetensors --epsilon 0.1 --force --out runs/demo-decouple

test: $(INSTALLED_DEV)  ## all tests but the slow ones (under 20 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal

check-slow: $(INSTALLED_DEV)  ## the slow tests
	$(BIN)/python -m pytest -m slow -n $(JOBS) --dist worksteal

lint: $(INSTALLED_DEV)  ## format, lint and type check; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_DEV)  ## write the format that lint wants
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-gal bench-kse bench-trace bench-latency  ## every benchmark, and the tables of benchmarks/README.md (DATA and WEIGHTS as for bench-gal)
	$(BIN)/python -m benchmarks.tables

bench-gal: $(INSTALLED_BENCH)  ## GAL beside Magnitude and Torch-Pruning: DATA=folder of CIFAR-10, WEIGHTS=folder of weights
	@test -n "$(DATA)" -a -n "$(WEIGHTS)" || { echo "say where they are: make $@ DATA=folder WEIGHTS=folder" >&2; exit 2; }
	$(BIN)/python -m benchmarks.bench_gal "$(DATA)" "$(WEIGHTS)"

bench-kse: $(INSTALLED_BENCH)  ## KSE at the paper's settings on ResNet-20 and ResNet-56, without fine-tuning: DATA and WEIGHTS as for bench-gal
	@test -n "$(DATA)" -a -n "$(WEIGHTS)" || { echo "say where they are: make $@ DATA=folder WEIGHTS=folder" >&2; exit 2; }
	$(BIN)/python -m benchmarks.bench_kse "$(DATA)" "$(WEIGHTS)" --network resnet20
	$(BIN)/python -m benchmarks.bench_kse "$(DATA)" "$(WEIGHTS)" --network resnet56

zoo: export OMP_NUM_THREADS = 1
zoo: $(INSTALLED_DEV)  ## the law on some two hundred architectures, and a table; NETS=timm:res* for some of them
	$(BIN)/python -m benchmarks.zoo $(NETS) --onnx --log benchmarks/work/zoo.jsonl --write benchmarks/results/zoo.json

bench-kernel: $(INSTALLED_BENCH)  ## clustered convolutions on the native kernel beside PyTorch and ONNX Runtime
	$(BIN)/python -m benchmarks.bench_kernel

bench-kse-latency: $(INSTALLED_BENCH)  ## whole networks after KSE beside PyTorch and ONNX Runtime
	$(BIN)/python -m benchmarks.bench_kse_latency

bench-gated: $(INSTALLED_BENCH)  ## what skipping filters buys in time, on one thread and two
	$(BIN)/python -m benchmarks.bench_gated --threads 1
	$(BIN)/python -m benchmarks.bench_gated --threads 2

bench-decouple: $(INSTALLED_BENCH)  ## architecture decoupling on ResNet-20: DATA and WEIGHTS as for bench-gal
	@test -n "$(DATA)" -a -n "$(WEIGHTS)" || { echo "say where they are: make $@ DATA=folder WEIGHTS=folder" >&2; exit 2; }
	$(BIN)/python -m benchmarks.bench_decouple "$(DATA)" "$(WEIGHTS)"

bench-trace: $(INSTALLED_BENCH)  ## seconds and memory of trace and rewrite, beside Torch-Pruning (on a quiet machine)
	$(BIN)/python -m benchmarks.bench_trace

bench-latency: $(INSTALLED_BENCH)  ## what half of the MACs buys in time, in PyTorch and ONNX Runtime (on a quiet machine)
	$(BIN)/python -m benchmarks.bench_latency

clean:  ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist *.egg-info runs model.pt
