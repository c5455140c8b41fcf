# What can be made here: `make help`.

PREFIX ?= /usr/local
CARGO  ?= cargo
TARGET  = $(or $(CARGO_TARGET_DIR),target)
BIN     = $(TARGET)/release
TOOLS   = $(notdir $(wildcard tools/*))
DEMO_BASE = work/models/smollm2-135m-instruct

# The GPU back end is a build of its own, beside the other: `make cuda`. Where an NVIDIA driver is
# present, demo and install use it.
CUBE     = $(TARGET)/cube
include scripts/driver.mk
USED     = $(if $(DRIVER),cuda,build)
USED_BIN = $(if $(DRIVER),$(CUBE)/release,$(BIN))
# One set of features for the binary and for the tests of its kernels on the CPU: one build of burn.
WITH_GPU = $(foreach tool,qlora-train adapter-eval,$(foreach feature,cuda cube-cpu,--features $(tool)/$(feature)))
GPU_CRATES = -p ops -p model -p qlora-train -p adapter-eval
CUBE_CARGO = XDG_DATA_HOME="$$(scripts/llvm-prefix '$(TARGET)/llvm')" CARGO_TARGET_DIR='$(CUBE)' $(CARGO)

PIPELINE = $(MAKE) --no-print-directory -f scripts/pipeline.mk BIN='$(USED_BIN)'

.PHONY: help build cuda test test-cube test-neon gpu-program lint licenses demo report experiment sweep bench install uninstall clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  make %-12s %s\n' "$$name" "$$text"; done

build: ## Build all tools into target/release
	$(CARGO) build --release --workspace --locked

# Tests on the real model run where it has been imported, and say aloud that they are skipped where not.
test: export SMOLLM2_BASE ?= $(abspath $(wildcard $(DEMO_BASE)))
test: ## Check the formatting, build, run every test
	$(CARGO) fmt --all --check
	$(CARGO) build --release --workspace --locked
	$(CARGO) test --release --workspace --locked

cuda: ## Build all tools with the GPU back end into target/cube/release (half an hour the first time)
	@scripts/llvm-prefix '$(TARGET)/llvm' >/dev/null
	$(CUBE_CARGO) build --release --workspace --locked $(WITH_GPU)

test-cube: ## Run every GPU kernel on the CPU against its specification, and the programs on a driver that is none
	@scripts/llvm-prefix '$(TARGET)/llvm' >/dev/null
	$(CUBE_CARGO) build --release --locked $(GPU_CRATES) -p tokenize-pack $(WITH_GPU) --bins --example gpu
	$(CC) -O2 -shared -fPIC -o '$(CUBE)/libtruncsfbf2.so' tests/emulation/truncsfbf2.c
	LD_PRELOAD='$(abspath $(CUBE))/libtruncsfbf2.so' $(CUBE_CARGO) test --release --locked $(GPU_CRATES) $(WITH_GPU) \
	    --lib --test fixtures --test devices --test trajectories --test driver

# What Debian calls gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu and qemu-user-static, and `rustup target add` of this target.
test-neon: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER ?= aarch64-linux-gnu-gcc
test-neon: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER ?= qemu-aarch64-static -L /usr/aarch64-linux-gnu
test-neon: ## Run the kernels' and the model's tests as on AArch64, emulated
	$(CARGO) test --release --locked --target aarch64-unknown-linux-gnu -p nf4 -p ops -p model --lib --test fixtures --test laws

gpu-program: ## Build target/gpu and target/gpu.xz, to carry to a machine with a GPU (scripts/gpu-check, gpu-bench)
	@scripts/llvm-prefix '$(TARGET)/llvm' >/dev/null
	$(CUBE_CARGO) build --release --locked $(GPU_CRATES) $(WITH_GPU) --example gpu
	strip -o '$(TARGET)/gpu' '$(CUBE)/release/examples/gpu'
	xz -6 -T0 -k -f '$(TARGET)/gpu'
	@ls -l '$(TARGET)/gpu' '$(TARGET)/gpu.xz'

lint: licenses ## Run clippy on everything, and check the licences
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

licenses:
	@scripts/licenses

demo: $(USED) ## Fine-tune and judge a small model on ICD-10 coding; BASE=dir takes another base
	@$(PIPELINE) report

report: $(USED) ## The same on your own data: WORK=work/mine DATA=mine.csv and all else at the top of scripts/pipeline.mk
	@$(PIPELINE) report

experiment: $(USED) ## The same with all training phrases
	@$(PIPELINE) report WORK=work/experiment SPLIT='--counts train=rest,valid=1,test=3'

sweep: $(USED) ## Train with several learning rates (RATES) and compare their evaluation losses
	@$(PIPELINE) sweep

# PYTHON=venv/bin/python names one that has datasets and transformers, the peer of tokenize-pack, and
# trl, peft and bitsandbytes, those of qlora-train.
bench: export PYTHON ?= python3
bench: ## Time the hot paths, each against something measured in the same run; fuzz a million lines
	$(CARGO) bench --locked -p ops --bench ops
	$(CARGO) bench --locked -p model --bench step
	$(CARGO) bench --locked -p model --bench step -- f32 step
	@$(PYTHON) scripts/peers/products.py
	$(CARGO) run --release --locked -p model --example decode_speed -- '$(DEMO_BASE)'
	@$(PYTHON) scripts/peers/generate.py '$(DEMO_BASE)' \
	    $(wildcard work/models/SmolLM2-135M-Instruct.Q4_1.gguf)
	$(CARGO) run --release --locked -p nf4 --example nf4_speed
	$(CARGO) run --release --locked -p tokenize-pack --example tokenize_speed
	$(CARGO) build --release --locked -p jsonl-validate
	$(CARGO) run --release --locked -p jsonl-validate --example validate_speed
	$(CARGO) run --release --locked -p dataset --example fuzz -- 1000000
	@if test -e '$(DEMO_BASE)/config.json' && test -e work/demo/train.jsonl; then \
	    BIN='$(BIN)' scripts/peers/compare-training '$(DEMO_BASE)' work/demo/train.jsonl; \
	else echo 'skipped: training beside TRL takes the base and the data of make demo'; fi

install: $(USED) ## Copy tools, manual pages and completions below PREFIX (/usr/local)
	@scripts/install '$(USED_BIN)' '$(DESTDIR)$(PREFIX)' $(TOOLS)

uninstall: ## Remove what install copied
	@cd '$(DESTDIR)$(PREFIX)' && rm -f -- $(foreach tool,$(TOOLS),bin/$(tool) share/man/man1/$(tool).1 \
	    share/bash-completion/completions/$(tool) share/zsh/site-functions/_$(tool) \
	    share/fish/vendor_completions.d/$(tool).fish)

clean: ## Remove what was built, and what demo and experiment wrote; not the models, nor work of other names
	$(CARGO) clean
	rm -rf work/demo work/experiment
