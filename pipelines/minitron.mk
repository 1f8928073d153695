# minitron.mk - a family of models from one: measure, rank, choose a shape, trim, distil, score; then from that, the next
#
#	make -f pipelines/minitron.mk TEACHER=nemotron-4-15b DATA=train.tok TARGETS="8b 4b" \
#	     PARAMS_8b=8e9 SHAPE_4b="--layers 32 --hidden 3072 --ffn 9216 --heads 24" LAUNCH='srun -n 8'
#
# Every target is trimmed from the student before it (the first from TEACHER).  What each needs:
#
#	TEACHER    directory of the model to start from
#	TARGETS    names, largest first
#	SHAPE_x    options of trim that give the shape, or
#	PARAMS_x   a budget of parameters, or BUDGET_x, options of candidates that give one ("--nonembedding 4e9"): the options
#	           GRID_x (or GRID) span the shapes, the first candidate is taken
#	DATA       token set to distil on (or several, NAME=TOKENS each; KDOPTS="--weights ..."), or
#	TEXT       text or JSONL files, which become DATA (all, or TRAIN_SAMPLES sequences of SEQ tokens) and CALIB
#	CALIB      token set to measure importance on; default: SAMPLES sequences of SEQ tokens from TEXT, or DATA
#
# And what may be set, each also per target as NAME_x:
#
#	STEPS BATCH MICRO LR MIN_LR WARMUP LOSS SEED   kd-train;  KDOPTS: more of its options
#	KD_TEACHER                    original | previous: who teaches the students after the first
#	VALID                         token file that kd-train measures now and then
#	CALIBOPTS STATSOPTS RANKOPTS TRIMOPTS   more options of those stages (CALIBOPTS not per target)
#	EVAL EVAL_INPUTS              options of evalharness (--task, --text), and the files that they name
#	WORK                          where everything goes (build/minitron)
#
# Goals: all (default: everything and the report), NAME (one target and what it needs), report (shows it), clean.
# See rules.mk for LAUNCH, BIN, RUNOPTS and for replacing a stage.
# SPDX-License-Identifier: Apache-2.0
here := $(dir $(lastword $(MAKEFILE_LIST)))
.DEFAULT_GOAL := all
WORK ?= build/minitron
KD_TEACHER ?= original
include $(here)recipe.mk

ifeq ($(TARGETS),)
$(error TARGETS="NAME..." is missing: the models to make, largest first)
endif
ifeq ($(filter original previous,$(KD_TEACHER)),)
$(error KD_TEACHER=$(KD_TEACHER) is neither original nor previous)
endif

# $(call of,VAR,TARGET): VAR_TARGET where set, else VAR;  $(call opt,--name,VAR,TARGET): "--name value" when not empty
of = $(if $(filter undefined,$(origin $1_$2)),$($1),$($1_$2))
opt = $(if $(call of,$2,$3),$1 $(call of,$2,$3))

# ---- one target ----
# Parameters: target, directory of the model it is trimmed from
kdopts = $(strip $(addprefix --valid ,$(VALID)) $(call opt,--steps,STEPS,$1) $(call opt,--batch,BATCH,$1) $(call opt,--micro,MICRO,$1) \
	$(call opt,--lr,LR,$1) $(call opt,--min-lr,MIN_LR,$1) $(call opt,--warmup,WARMUP,$1) $(call opt,--loss,LOSS,$1) \
	$(call opt,--seed,SEED,$1) $(call of,KDOPTS,$1))
hash := \#
budget = $(if $(SHAPE_$1),,$(if $(BUDGET_$1),$(BUDGET_$1),$(if $(PARAMS_$1),--params $(PARAMS_$1),$(error target $1 needs SHAPE_$1, PARAMS_$1 or BUDGET_$1))))
shape = $(if $(budget),--candidate $(WORK)/$1/cand$(hash)1,$(SHAPE_$1))
define target
$(call act-stats,$(WORK)/$1/stats,$2,$(CALIB),$(call of,STATSOPTS,$1))
$(call rank,$(WORK)/$1/rank,$(WORK)/$1/stats,$(call of,RANKOPTS,$1))
$(if $(budget),$(call candidates,$(WORK)/$1/cand,$2,$(budget) $(call of,GRID,$1) --top 1))
$(call trim,$(WORK)/$1/trimmed,$2,$(WORK)/$1/rank,$(shape) $(call of,TRIMOPTS,$1),$(if $(budget),$(WORK)/$1/cand))
$(call kd-train,$(WORK)/$1/kd,$(if $(filter original,$(KD_TEACHER)),$(TEACHER),$2),$(WORK)/$1/trimmed,$(DATA),$(kdopts),$(VALID))
.PHONY: $1
$1: $(WORK)/$1/kd/student/config.json
endef

# ---- all of them, each from the one before ----
previous := $(TEACHER)
$(foreach t,$(TARGETS),\
	$(eval $(call target,$t,$(previous)))\
	$(call score,$(WORK)/$t/trimmed.json,$(WORK)/$t/trimmed)\
	$(call score,$(WORK)/$t/results.json,$(WORK)/$t/kd/student)\
	$(eval previous := $(WORK)/$t/kd/student))
$(eval $(call report,$(TARGETS),$(TARGETS:%=$(WORK)/%/kd/student)))
