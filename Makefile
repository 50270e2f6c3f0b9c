# Targets of enc-caffe; `make` lists them.
PY := .venv/bin/python
OUT ?= outputs
export ENC_CAFFE_DATA

.PHONY: help install caffe demo test lint format resnet56-50 bench clean
help:
	@echo "make install      .venv with the package, Caffe, and the commands enc-caffe and caffe"
	@echo "make caffe        build BVLC Caffe into the per-user cache (make install does it too)"
	@echo "make demo         train, compress, fine-tune and test a small CNN on handwritten digits"
	@echo "make resnet56-50  the paper's ResNet-56 at half its MACs (ENC_CAFFE_DATA=DIR with the data, or downloads)"
	@echo "make test         all tests"
	@echo "make lint         ruff and mypy;  make format  rewrites the layout"
	@echo "make bench        the benchmarks of scripts/bench_*.py"

install:
	@bash scripts/install.sh

caffe: install

demo: install
	@$(PY) scripts/demo.py --out $(OUT)/demo

resnet56-50: install
	@$(PY) scripts/resnet56.py --target_flops 0.5 --out $(OUT)/resnet56-50

test: install
	@$(PY) -m pytest

lint: install
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: install
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

bench: install
	@for b in scripts/bench_*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

clean:
	rm -rf $(OUT) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
