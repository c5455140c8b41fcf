# The experiment as Make targets: CSV → examples → packed rows → adapter → verdict.
#
#   make -f scripts/pipeline.mk report                    the demo: ICD-10 coding
#   make -f scripts/pipeline.mk report RATE=5e-4          only training and what follows runs again
#   make -f scripts/pipeline.mk report WORK=work/mine DATA=mine.csv SYSTEM='…' USER_TEMPLATE='{{ question }}' \
#       ASSISTANT_TEMPLATE='{{ answer }}' SPLIT='--ratios 80,10,10' METRIC=exact
#
# Settings are given on the command line; none is taken from the environment, where clusters and others have names
# such as RANK and WORK. A target is there only when it is whole. What a step was told lies in WORK/flags/STEP, which
# changes only when that does; so a changed variable runs the steps that depend on it, and no other.

include scripts/driver.mk

# The tools of `make cuda` where there is a GPU for them.
BIN    = $(firstword $(and $(DRIVER),$(patsubst %/qlora-train,%,$(wildcard target/cube/release/qlora-train))) target/release)
WORK   = work/demo
MODELS = work/models
BASE   = $(MODELS)/smollm2-135m-instruct

# --- What is asked ---------------------------------------------------------------------------------------------
DATA               = data/icd10-categories.csv
SYSTEM             = Answer with the ICD-10 category as JSON: {"code", "description"}
USER_TEMPLATE      = {{ clinical_note }}
ASSISTANT_TEMPLATE = {{ {"code": code, "description": description} | tojson }}
VALIDATE           = --assistant-json
METRIC             = json-field:code
# Numbers of phrases in each category. The test set is drawn first: more training data never changes it.
PER_LABEL          = 12
SPLIT              = --stratify code --counts train=$(PER_LABEL),valid=1,test=3

# --- How it is trained -----------------------------------------------------------------------------------------
MAX_SEQ_LENGTH = 512
PACKING        = none
BATCH          = 8
ACCUMULATION   = 1
EPOCHS         = 3
RATE           = 1.5e-3
WARMUP         = 0.03
RANK           = 16
ALPHA          = 32
DROPOUT        = 0.05
SEED           = 0
TRAIN_FLAGS    =

# --- How it is judged ------------------------------------------------------------------------------------------
SHOTS          = 8,32
MAX_NEW_TOKENS = 32
EVAL_BATCH     = 32
# For every evaluation, e.g. --limit 20 or --bertscore-model DIR
EVAL_FLAGS     =
# e.g. --must-beat base nearest, or --must-beat-clearly: make then fails when that is not so
GATE           =
# Learning rates of `sweep`
RATES          = 2e-4 5e-4 1e-3 2e-3

.DELETE_ON_ERROR:
.NOTPARALLEL: # every step uses all cores by itself
.SUFFIXES:
.PHONY: report sweep data base FORCE
report:

$(foreach name,BIN WORK MODELS BASE DATA,$(if $(word 2,$($(name))),$(error $(name)='$($(name))': make takes no spaces in names of files)))

# Texts reach the shell through the environment, so that no quote in them needs care.
export SYSTEM USER_TEMPLATE ASSISTANT_TEMPLATE

# $(call told,STEP): the file that holds $(told-STEP), written when it holds something else and the goal has that step;
# make -n only says that the step would run.
steps-base   = none
steps-data   = import validate split
steps-sweep  = $(steps-data) pack sweep
steps-report = $(steps-data) pack train lookup zero-shot few-shot report
steps   := $(foreach goal,$(or $(MAKECMDGOALS),report),$(or $(steps-$(goal)),$(steps-report) sweep))
differ   = $(subst x$(1),,x$(2))$(subst x$(2),,x$(1))
changed  = $(if $(wildcard $(1)),$(call differ,$(2),$(file <$(1))),new)
write    = $(if $(findstring n,$(firstword -$(MAKEFLAGS))),FORCE,$(shell mkdir -p $(dir $(1)))$(file >$(1),$(2))$(1))
remember = $(if $(call changed,$(1),$(2)),$(call write,$(1),$(2)),$(1))
told     = $(if $(filter $(1),$(steps)),$(call remember,$(WORK)/flags/$(1),$(told-$(1))),$(WORK)/flags/$(1))

# --- Data ------------------------------------------------------------------------------------------------------
told-import = $(DATA) | $(SYSTEM) | $(USER_TEMPLATE) | $(ASSISTANT_TEMPLATE)
$(WORK)/raw.jsonl: $(DATA) $(call told,import)
	$(BIN)/jsonl-import $(DATA) --system "$$SYSTEM" --user "$$USER_TEMPLATE" --assistant "$$ASSISTANT_TEMPLATE" -o $@

told-validate = $(VALIDATE)
$(WORK)/clean.jsonl: $(WORK)/raw.jsonl $(call told,validate)
	$(BIN)/jsonl-validate $< $(VALIDATE) -o $@

SPLITS = $(WORK)/train.jsonl $(WORK)/valid.jsonl $(WORK)/test.jsonl

# A file that the new split does not change keeps its date: what depends on it alone does not run again.
told-split = $(SPLIT) --seed $(SEED)
$(WORK)/split/split.json: $(WORK)/clean.jsonl $(call told,split)
	$(BIN)/jsonl-split $< $(SPLIT) --seed $(SEED) --out-dir $(WORK)/split
	@for name in train valid test; do \
	    cmp -s $(WORK)/split/$$name.jsonl $(WORK)/$$name.jsonl || cp $(WORK)/split/$$name.jsonl $(WORK)/$$name.jsonl; \
	done
$(SPLITS): $(WORK)/split/split.json
	@:

data: $(SPLITS)

# --- Base ------------------------------------------------------------------------------------------------------
$(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf:
	scripts/fetch-smollm2 $@

$(MODELS)/smollm2-135m-instruct/config.json: | $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
	$(BIN)/model-import $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf --out-dir $(@D)

ifneq ($(BASE),$(MODELS)/smollm2-135m-instruct)
$(BASE)/config.json:
	@test -e $@ || { echo "pipeline.mk: $(BASE) is no base: it has no config.json" >&2; \
	    echo "hint: BASE=dir takes a folder made by model-import, or any Hugging Face folder" >&2; exit 2; }
endif

base: $(BASE)/config.json

# --- Training --------------------------------------------------------------------------------------------------
PACKED = $(WORK)/train.safetensors $(WORK)/valid.safetensors

told-pack = $(BASE) $(MAX_SEQ_LENGTH) $(PACKING)
$(PACKED): $(WORK)/%.safetensors: $(WORK)/%.jsonl $(BASE)/config.json $(call told,pack)
	$(BIN)/tokenize-pack $< --base $(BASE) --max-seq-length $(MAX_SEQ_LENGTH) --packing $(PACKING) -o $@
.SECONDARY:

TRAIN = --base $(BASE) --train $(WORK)/train.safetensors --eval $(WORK)/valid.safetensors \
    --batch-size $(BATCH) --gradient-accumulation-steps $(ACCUMULATION) --epochs $(EPOCHS) --warmup-ratio $(WARMUP) \
    $(if $(findstring --init-adapter,$(TRAIN_FLAGS)),,--rank $(RANK) --alpha $(ALPHA)) --dropout $(DROPOUT) --seed $(SEED) $(TRAIN_FLAGS)

# Interrupted, it goes on where it was; told otherwise, it begins again (--overwrite). A run that had finished is
# left as it is: touch says that it is up to date. Status 1, no better than the start, is for the report to tell. A
# signal is for training, which saves; the shell waits for that.
told-train = $(TRAIN) --learning-rate $(RATE)
$(WORK)/run/adapter/adapter_model.safetensors: $(PACKED) $(call told,train)
	trap : TERM INT HUP; $(BIN)/qlora-train $(TRAIN) --learning-rate $(RATE) --out-dir $(WORK)/run --overwrite || [ $$? = 1 ]
	@touch $@

# --- Judgement -------------------------------------------------------------------------------------------------
# What does not know the adapter is asked once, and again only when the questions or the prompt change.
EVAL = --cases $(WORK)/test.jsonl --metric $(METRIC) $(EVAL_FLAGS)
GENERATE = $(EVAL) --base $(BASE) --max-new-tokens $(MAX_NEW_TOKENS) --batch-size $(EVAL_BATCH)
WITHOUT_ADAPTER = lookup base-nf4-zero-shot base-full-zero-shot base-nf4-few-shot base-full-few-shot
REPORTS = $(WITHOUT_ADAPTER:%=$(WORK)/eval/%/report.json)

told-lookup = $(EVAL)
$(WORK)/eval/lookup/report.json: $(SPLITS) $(call told,lookup)
	$(BIN)/adapter-eval $(EVAL) --systems majority,nearest --train $(WORK)/train.jsonl --out-dir $(@D) >/dev/null

told-zero-shot = $(GENERATE)
$(filter %-zero-shot/report.json,$(REPORTS)): $(WORK)/eval/base-%-zero-shot/report.json: $(WORK)/test.jsonl $(BASE)/config.json $(call told,zero-shot)
	$(BIN)/adapter-eval $(GENERATE) --quantize $(patsubst full,none,$*) --systems zero-shot --out-dir $(@D) >/dev/null

told-few-shot = $(GENERATE) $(SHOTS) $(SEED)
$(filter %-few-shot/report.json,$(REPORTS)): $(WORK)/eval/base-%-few-shot/report.json: $(SPLITS) $(BASE)/config.json $(call told,few-shot)
	$(BIN)/adapter-eval $(GENERATE) --quantize $(patsubst full,none,$*) --systems few-shot --train $(WORK)/train.jsonl \
	    --select $(WORK)/valid.jsonl --shots $(SHOTS) --seed $(SEED) --out-dir $(@D) >/dev/null

told-report = $(GENERATE) $(GATE)
$(WORK)/report.txt: $(REPORTS) $(WORK)/run/adapter/adapter_model.safetensors $(call told,report)
	$(BIN)/adapter-eval $(GENERATE) --adapter $(WORK)/run/adapter --against $(patsubst %/report.json,%,$(REPORTS)) \
	    $(GATE) --out-dir $(WORK)/eval/adapter >$@.tmp || { status=$$?; cat $@.tmp; rm $@.tmp; exit $$status; }
	@mv $@.tmp $@

report: $(WORK)/report.txt
	@cat $<
	@echo
	@echo "The report: $(WORK)/eval/adapter/report.html (and .json; every answer in predictions.jsonl)"

# --- Which learning rate? --------------------------------------------------------------------------------------
RATE_RUNS = $(RATES:%=$(WORK)/sweep/%/adapter/adapter_model.safetensors)

told-sweep = $(TRAIN)
$(RATE_RUNS): $(WORK)/sweep/%/adapter/adapter_model.safetensors: $(PACKED) $(call told,sweep)
	trap : TERM INT HUP; $(BIN)/qlora-train $(TRAIN) --learning-rate $* --out-dir $(WORK)/sweep/$* --overwrite || [ $$? = 1 ]
	@touch $@

sweep: $(RATE_RUNS)
	@scripts/compare-runs $(RATES:%=$(WORK)/sweep/%)
