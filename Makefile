# Targets of enc-caffe; `make` lists them.
PY := .venv/bin/python
OUT ?= outputs
export ENC_CAFFE_DATA

EXPERIMENTS := resnet56-50 resnet56-55 vgg16-25 vgg16-24 vgg16-20 alexnet-37 alexnet-31 \
	vgg16-57 vgg16-41 vgg16-39 vgg16-33 table1 table2 table3 table4 fig2 fig3 fig6 fig7 paper

.PHONY: help install caffe demo test gpu-test lint format compare rivals bench bench-all fuzz fuzz-guided kills docker docker-gpu docker-test docker-gpu-test deploy-test clean $(EXPERIMENTS)
help:
	@echo "make install      .venv with the package, Caffe, and the commands enc-caffe and caffe"
	@echo "make caffe        build BVLC Caffe into the per-user cache (make install does it too)"
	@echo "make demo         train, compress, fine-tune and test a small CNN on handwritten digits"
	@echo "make resnet56-50  the paper's ResNet-56 at half its MACs (also resnet56-55; ENC_CAFFE_DATA=DIR with the data, or downloads)"
	@echo "make vgg16-25     VGG-16 at 25% (also vgg16-24, -20; alexnet-37, -31): METRICS=FILE searches; IMAGENET_LMDB= and"
	@echo "                  TEST_LMDB= do all of it"
	@echo "make table1       a table of the paper beside what can be had here (also table2 to table4; fig2, fig3, fig6, fig7; paper)"
	@echo "                  variables: METHOD=map|model|inf, FINETUNE=0|1, WORKERS=, GPU=0,1|all, WEIGHTS=, OUT="
	@echo "make rivals       every method of the paper's tables on ResNet-56: accuracy, evaluations and time of the search; variables:"
	@echo "                  METHOD=uniform,adc,..., TARGETS=0.5,0.3, EPISODES=, CHOOSE=, LMDB=, TEST_LMDB=, MODEL=, WEIGHTS=, COUNT=,"
	@echo "                  FINETUNE=N iterations for each (SOLVER=, TRAIN_LMDB= with MODEL=; GPU=0 trains there)"
	@echo "make compare      all search methods on ResNet-56 at equal MACs (ENC_CAFFE_DATA=DIR)"
	@echo "make test         all tests, two files at a time (JOBS=N)"
	@echo "make gpu-test     layers, networks and commands on a GPU, held against the CPU (CPU_ONLY=OFF make install before)"
	@echo "make lint         ruff and mypy;  make format  rewrites the layout"
	@echo "make bench        one table: networks, original and compressed, forward and training, by Caffe's own kernels and by these;"
	@echo "                  FLAGS=\"--cpu --rounds 3 --networks ResNet --against PREFIX --torch PYTHON\"; make bench-all  scripts/bench_*.py too"
	@echo "make fuzz         100,000 damaged files of each format (INPUTS=, WORKERS=); make fuzz-guided: by atheris,"
	@echo "                  which keeps what reaches new lines.  make kills: 200 kills of running commands"
	@echo "make deploy-test  networks, whole and compressed, through OpenCV, MNN, OpenVINO, ONNX and ncnn (docs/deploy.md);"
	@echo "                  installs them from PyPI into the per-user cache (2.5 GB); ENC_CAFFE_DATA=DIR: real networks too"
	@echo "make docker       the image enc-caffe:cpu;  make docker-gpu  enc-caffe:gpu  (ENGINE=docker|podman|buildah)"
	@echo "make docker-test  build the CPU image by buildah on Debian 12 and 13, and run its tests inside (root);"
	@echo "                  make docker-gpu-test builds the GPU image on their CUDA 11.8 and 12.4"

install:
	@bash scripts/install.sh

caffe: install

demo: install
	@$(PY) scripts/demo.py --out $(OUT)/demo

$(EXPERIMENTS): install
	@$(PY) scripts/experiment.py $@ $(if $(METHOD),--method $(METHOD)) $(if $(METRICS),--metrics $(METRICS)) \
		$(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(IMAGENET_LMDB),--imagenet_lmdb $(IMAGENET_LMDB)) \
		$(if $(TEST_LMDB),--test_lmdb $(TEST_LMDB)) $(if $(FINETUNE),--finetune $(FINETUNE)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(GPU),--gpu $(GPU)) --out $(OUT)/$@

rivals: install
	@$(PY) scripts/rivals.py --out $(OUT)/rivals $(if $(METHOD),--method $(METHOD)) $(if $(TARGETS),--targets $(TARGETS)) \
		$(if $(EPISODES),--episodes $(EPISODES)) $(if $(CHOOSE),--choose $(CHOOSE)) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(MODEL),--model $(MODEL)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(LMDB),--lmdb $(LMDB)) \
		$(if $(TEST_LMDB),--test_lmdb $(TEST_LMDB)) $(if $(COUNT),--count $(COUNT)) $(if $(FINETUNE),--finetune $(FINETUNE)) \
		$(if $(SOLVER),--solver $(SOLVER)) $(if $(TRAIN_LMDB),--train_lmdb $(TRAIN_LMDB)) \
		$(if $(GPU),--gpu $(GPU))

compare: install
	@$(PY) scripts/compare_methods.py --out $(OUT)/compare $(if $(METRICS),--metrics $(METRICS))

test: install
	@$(PY) -m pytest -n $(or $(JOBS),2) --dist loadfile

gpu-test: install
	@$(PY) -m pytest -o python_files='check_*.py' tests/gpu -rs

lint: install
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: install
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

bench: install
	@$(PY) scripts/speed.py --out $(OUT)/bench $(FLAGS)

bench-all: bench
	@for b in scripts/bench_*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

fuzz: install
	@$(PY) scripts/fuzz.py --inputs $(or $(INPUTS),100000) --workers $(or $(WORKERS),1) --out $(OUT)/fuzz

fuzz-guided: install
	@$(PY) -m pip install -q "atheris>=3.0"
	@$(PY) scripts/fuzz_guided.py --inputs $(or $(INPUTS),100000) --out $(OUT)/fuzz

kills: install
	@$(PY) scripts/kill_runs.py --kills $(or $(KILLS),200)

deploy-test: install
	@$(PY) scripts/deploy_test.py --out $(OUT)/deploy

docker:
	@bash scripts/docker_build.sh cpu

docker-gpu:
	@bash scripts/docker_build.sh gpu

docker-test:
	@bash scripts/test_docker_build.sh

docker-gpu-test:
	@bash scripts/test_docker_build.sh --gpu

clean:
	rm -rf $(OUT) .pytest_cache .mypy_cache .ruff_cache build *.egg-info
