# in-practice.mk - the recipe of "LLM pruning and distillation in practice" (arXiv 2408.11796): the teacher is corrected on the
# distillation data first, then cut in depth, in width, or both ways, and the students learn from the corrected teacher
#
#	make -f pipelines/in-practice.mk TEACHER=llama-3.1-8b DATA=train.tok CALIB=calib.tok DEPTH=16 \
#	     DEPTH_METRIC=task:winogrande.jsonl WIDTH="--hidden 3072 --ffn 9216" CORRECT_LR=2e-5 STEPS=10000 LR=1e-4
#
# In depth neighbouring blocks go, the DEPTH of them that are missed least in an ablation; first and last stay (PROTECT); in width
# what activations say.  Goals: all (default: what DEPTH and WIDTH ask for, and the report), correct, depth, width, report, clean.
#
#	TEACHER DATA          the model, and the token set to correct and distil on (or domains, NAME=TOKENS each); or TEXT: text or JSONL files that become DATA and CALIB
#	CALIB                 token set to measure importance on (DATA)
#	CORRECTION            first: the teacher is trained before anything is measured; parallel: the original is measured and cut, and the
#	                      teacher is trained while the student learns from it; none
#	CORRECT_LR            its peak rate: a fifth of what the teacher was trained with (2e-5)
#	CORRECT_STEPS CORRECT_OPTS   of that training (STEPS; more options, such as --warmup 120)
#	DEPTH                 blocks to leave out;  DEPTH_METRIC: loss (on CALIB), or task:FILE of multiple choice;  PROTECT ("0": the first
#	                      block and, as blocks are neighbours and the last one is protected, never the last)
#	WIDTH                 options of trim that give the shape
#	STEPS BATCH MICRO LR MIN_LR WARMUP LOSS SEED VALID KDOPTS   kd-train;  KDOPTS_depth: depth only (--hidden-loss ...)
#	SAMPLES TRAIN_SAMPLES SEQ CALIBOPTS STATSOPTS ABLATEOPTS RANKOPTS TRIMOPTS   more options of those stages
#	EVAL EVAL_INPUTS      options of evalharness, and the files that they name
#	WORK                  where everything goes (build/in-practice): correct/, depth/, width/, report.txt
#
# SPDX-License-Identifier: Apache-2.0
here := $(dir $(lastword $(MAKEFILE_LIST)))
.DEFAULT_GOAL := all
WORK ?= build/in-practice
CORRECTION ?= first
CORRECT_LR ?= 2e-5
CORRECT_STEPS ?= $(STEPS)
DEPTH_METRIC ?= loss
PROTECT ?= 0
include $(here)recipe.mk

ifeq ($(DEPTH)$(WIDTH),)
$(error DEPTH=N (blocks to leave out) or WIDTH="--hidden ... --ffn ..." is missing)
endif
ifeq ($(filter first parallel none,$(CORRECTION)),)
$(error CORRECTION=$(CORRECTION) is none of first, parallel and none)
endif

# ---- the teacher: cross-entropy on the data that the students will see ----
batch := $(addprefix --batch ,$(BATCH)) $(addprefix --micro ,$(MICRO)) $(addprefix --seed ,$(SEED)) $(addprefix --valid ,$(VALID))
kdopts = $(strip $(batch) $(addprefix --steps ,$(STEPS)) $(addprefix --lr ,$(LR)) $(addprefix --min-lr ,$(MIN_LR)) \
	$(addprefix --warmup ,$(WARMUP)) $(addprefix --loss ,$(LOSS)) $(KDOPTS) $(KDOPTS_$1) \
	$(if $(filter parallel,$(CORRECTION)),--correct-teacher $(CORRECT_LR)))
ifeq ($(CORRECTION),first)
model := $(WORK)/correct/student
$(eval $(call kd-train,$(WORK)/correct,,$(TEACHER),$(DATA),$(strip --loss ce $(batch) $(addprefix --steps ,$(CORRECT_STEPS)) \
	--lr $(CORRECT_LR) $(addprefix --min-lr ,$(MIN_LR)) $(KDOPTS) $(CORRECT_OPTS)),$(VALID)))
.PHONY: correct
correct: $(model)/config.json
else
model := $(TEACHER)
endif

# ---- students ----
layers := $(shell sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' $(TEACHER)/config.json | head -n 1)
tokens := $(if $(filter task:%,$(DEPTH_METRIC)),,$(CALIB))
ifneq ($(DEPTH),)
$(eval $(call ablate,$(WORK)/depth/stats,$(model),$(tokens),--metric $(DEPTH_METRIC) --mode block:$(DEPTH) --protect-last 1 \
	$(addprefix --protect ,$(PROTECT)) $(ABLATEOPTS),$(patsubst task:%,%,$(filter task:%,$(DEPTH_METRIC)))))
$(eval $(call rank,$(WORK)/depth/rank,$(WORK)/depth/stats,$(RANKOPTS)))
$(eval $(call trim,$(WORK)/depth/trimmed,$(model),$(WORK)/depth/rank,--layers $(shell echo $$(($(layers) - $(DEPTH)))) $(TRIMOPTS)))
endif
ifneq ($(WIDTH),)
$(eval $(call act-stats,$(WORK)/width/stats,$(model),$(CALIB),$(STATSOPTS)))
$(eval $(call rank,$(WORK)/width/rank,$(WORK)/width/stats,$(RANKOPTS)))
$(eval $(call trim,$(WORK)/width/trimmed,$(model),$(WORK)/width/rank,$(WIDTH) $(TRIMOPTS)))
endif
ways := $(if $(DEPTH),depth) $(if $(WIDTH),width)
define student
$(call kd-train,$(WORK)/$1/kd,$(model),$(WORK)/$1/trimmed,$(DATA),$(call kdopts,$1),$(VALID))
.PHONY: $1
$1: $(WORK)/$1/kd/student/config.json
endef
$(foreach w,$(ways),\
	$(eval $(call student,$w))\
	$(call score,$(WORK)/$w/trimmed.json,$(WORK)/$w/trimmed)\
	$(call score,$(WORK)/$w/results.json,$(WORK)/$w/kd/student))
$(if $(filter first,$(CORRECTION)),$(call score,$(WORK)/correct/results.json,$(model)))
$(eval $(call report,$(if $(filter first,$(CORRECTION)),correct) $(ways),$(ways:%=$(WORK)/%/kd/student)))
