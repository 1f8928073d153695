# search.mk - which shape is best after a little training: light retraining of every candidate until their order settles
#
#	make -f pipelines/search.mk TEACHER=nemotron-4-15b DATA=train.tok VALID=valid.tok \
#	     CAND="--layers 29:32 --hidden 4096,4608 --ffn-ratio 3,3.5,4 --params 8e9~5%" TOP=6 SLICE=50 PATIENCE=3
#
# Untrained, a pruned model's loss says little about what it will become (arXiv 2407.14679, section 2.3).  So every shape
# that CAND gives is trimmed and distilled in equal slices of SLICE steps, all on the same data in the same order; after every
# slice the held-out losses order them.  When the order has stayed the same for PATIENCE slices it is taken to be final.
# The learning rate is constant while the search lasts (warm-up, stable, decay), so it does not depend on where the
# search stops, and nothing is lost: `finish` takes the winner on from where it is to the end of STEPS.
#
#	TEACHER DATA VALID   model to start from and learn from; token sets to distil on and to measure
#	CAND TOP             options of candidates, and how many shapes to take (6; --by in CAND says which)
#	SLICE PATIENCE       steps between evaluations (50); evaluations without a change of order (3)
#	ROUNDS STEPS         slices at most (20); steps of the whole training, for the schedule (SLICE x ROUNDS / 0.8)
#
# And what may be set:
#
#	BATCH MICRO SEQ LR WARMUP LOSS SEED   kd-train;  KDOPTS: more of its options
#	KEY                  what of metrics.jsonl decides (valid/loss; valid/lm/ce ...)
#	SCORE SCORE_INPUTS TASK   decide by a task instead: options of evalharness, the files they name, the task's name
#	CALIB                token set to measure importance on (DATA)
#	STATSOPTS RANKOPTS TRIMOPTS           more options of those stages
#	WORK                 where everything goes (build/search)
#
# Goals: all (default: trajectory, report, winner), show (prints the history so far), finish (the winner, fully trained, as
# WORK/student), clean.  WORK/winner is a model directory, WORK/trajectory.jsonl the history, one evaluation a line.
# Every slice is a target of its own: a kill costs at most one slice of one candidate, a second make does nothing, more
# PATIENCE goes on where the search stopped.  With make -j, candidates train side by side.
# The list of shapes is made while make reads this file, also by make -n.  See rules.mk for LAUNCH, BIN, RUNOPTS.
# SPDX-License-Identifier: Apache-2.0
here := $(dir $(lastword $(MAKEFILE_LIST)))
.DEFAULT_GOAL := all
include $(here)rules.mk

WORK ?= build/search
TEACHER ?=
DATA ?=
VALID ?=
CAND ?=
TOP ?= 6
SLICE ?= 50
PATIENCE ?= 3
ROUNDS ?= 20
STEPS ?= $(shell echo $$(($(SLICE) * $(ROUNDS) * 5 / 4)))
LR ?= 1e-4
SEED ?= 1
KEY ?= valid/loss
SCORE ?=
SCORE_INPUTS ?=
TASK ?=
CALIB ?= $(DATA)
PICK ?= pick

goals := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out clean show,$(goals)),)
missing = $(if $($1),,$(error $1=$2 is missing: $3))
$(call missing,TEACHER,DIR,the model to start from and to learn from)
$(call missing,DATA,TOKENS,what to distil on)
$(call missing,VALID,TOKENS,held-out tokens that decide)
$(call missing,CAND,"OPTIONS",options of candidates that give the shapes)
$(if $(SCORE),$(call missing,TASK,NAME,the task of SCORE that decides))
ifneq ($(shell [ $$(($(SLICE) * $(ROUNDS) * 5)) -le $$(($(STEPS) * 4)) ] && echo ok),ok)
$(error $(ROUNDS) slices of $(SLICE) steps are more than the first 80 % of STEPS=$(STEPS), where the learning rate is constant)
endif

# ---- the shapes: WORK/shapes.mk says `ids := 3 7 12` ----
$(eval $(call candidates,$(WORK)/cand,$(TEACHER),$(CAND) --top $(TOP)))
$(WORK)/shapes.mk: $(WORK)/cand
	@artcat $< | sed -n 's/^{"id":\([0-9]*\),.*/\1/p' | sort -n | tr '\n' ' ' | sed 's/^/ids := /' >$@.tmp
	@mv $@.tmp $@
include $(WORK)/shapes.mk

# ---- importance, once for all ----
$(eval $(call act-stats,$(WORK)/stats,$(TEACHER),$(CALIB),$(STATSOPTS)))
$(eval $(call rank,$(WORK)/rank,$(WORK)/stats,$(RANKOPTS)))

# ---- one candidate ----
opt = $(if $($2),$1 $($2))
kd = $(KD_TRAIN) --teacher $(TEACHER) --student $(WORK)/$1/trimmed --data $(DATA) --valid $(VALID) --valid-every $(SLICE) \
	--steps $(STEPS) --schedule wsd --wsd-decay 0.2 --lr $(LR) --save-every 0 --keep 1 --seed $(SEED) \
	$(strip $(call opt,--batch,BATCH) $(call opt,--micro,MICRO) $(call opt,--seq,SEQ) $(call opt,--warmup,WARMUP) \
	$(call opt,--loss,LOSS) $(KDOPTS)) -o $(WORK)/$1/kd
kdrun = $(LAUNCH) $(kd) --events $(WORK)/$1/kd.log $(RUNOPTS)
hash := \#
step_of = $(shell echo $$(($1 * $(SLICE))))
minus1 = $(shell echo $$(($1 - 1)))

# kd.new is renewed, and what was trained is dropped, exactly when the command or an input has changed.
define candidate
$(call trim,$(WORK)/$1/trimmed,$(TEACHER),$(WORK)/rank,--candidate $(WORK)/cand$(hash)$(1:c%=%) $(TRIMOPTS),$(WORK)/cand)
$(call stamp,$(WORK)/$1/kd.cmd,$(strip $(call kd,$1) $(SCORE)))
$(WORK)/$1/kd.new: $(TEACHER)/config.json $(WORK)/$1/trimmed/config.json $(DATA) $(VALID) $(SCORE_INPUTS) $(WORK)/$1/kd.cmd
	@rm -rf $(WORK)/$1/kd $(WORK)/$1/slices $(WORK)/$1/now $(WORK)/$1/score-*.json $(WORK)/$1/kd.log
	@mkdir -p $(WORK)/$1/slices && touch $$@
endef

# A slice that was trained holds its last step; one that was not needed any more is empty.
# Parameters: candidate, round, its last step, the order before it
define slice
$(WORK)/$1/slices/$2: $(WORK)/$1/kd.new $4
	@if [ -s $$@ ]; then touch $$@; exit; fi; \
	if $(if $4,grep -q '"settled":true' $4,false); then : >$$@; exit; fi; \
	echo "slice $2: $1 to step $3"; \
	$(call kdrun,$1) --stop-at $3$(if $(SCORE), --export $(WORK)/$1/now; \
	$(LAUNCH) $(EVALHARNESS) -m $(WORK)/$1/now $(SCORE) -f -o $(WORK)/$1/score-$3.json $(RUNOPTS)); \
	echo $3 >$$@
endef

# Parameters: round, its last step.  75: not settled yet.
pick = $(PICK) $(addprefix $(WORK)/,$(runs)) --patience $(PATIENCE) $(if $(SCORE),--score $(TASK),--key $(KEY))
define order
$(WORK)/order/$1: $(foreach c,$(runs),$(WORK)/$c/slices/$1) $(WORK)/pick.cmd
	@mkdir -p $(WORK)/order
	$(pick) --until $2 -q -f -o $$@ || [ $$$$? -eq 75 ]
endef

runs := $(addprefix c,$(ids))
rounds := $(shell seq $(ROUNDS))
$(eval $(call stamp,$(WORK)/pick.cmd,$(pick)))
$(foreach c,$(runs),$(eval $(call candidate,$c)))
$(foreach r,$(rounds),$(eval $(call order,$r,$(call step_of,$r)))\
	$(foreach c,$(runs),$(eval $(call slice,$c,$r,$(call step_of,$r),$(if $(filter-out 1,$r),$(WORK)/order/$(call minus1,$r))))))

# ---- what comes of it ----
$(WORK)/trajectory.jsonl: $(WORK)/order/$(lastword $(rounds))
	@cp $< $@.tmp && mv $@.tmp $@
$(WORK)/trajectory.txt: $(WORK)/trajectory.jsonl
	@$(pick) >$@.tmp || [ $$? -eq 75 ]
	mv $@.tmp $@ && cat $@
$(WORK)/report.html: $(WORK)/trajectory.txt
	@report -q -f $(addprefix $(WORK)/,$(runs)) --notes $< -o $@ >/dev/null

# field NAME: of the verdict, the last line of the trajectory
field = $$(sed -n '$$s/.*"$1":"*\([^",]*\).*/\1/p' $(WORK)/trajectory.jsonl)
$(WORK)/winner/config.json: $(WORK)/trajectory.jsonl
	@w=$(call field,winner); \
	if [ -d $(WORK)/$$w/kd/student ]; then rm -rf $(WORK)/winner; cp -r $(WORK)/$$w/kd/student $(WORK)/winner; \
	else $(call kdrun,$$w) --stop-at $(call field,step) --export $(WORK)/winner; fi
$(WORK)/student/config.json: $(WORK)/trajectory.jsonl $(WORK)/winner/config.json
	@w=$(call field,winner); $(call kdrun,$$w); ln -sfn $$w/kd/student $(WORK)/student
endif

.PHONY: all show finish clean
all: $(WORK)/report.html $(WORK)/winner/config.json
finish: all $(WORK)/student/config.json
show:
	@$(PICK) $(WORK)/c*/ --patience $(PATIENCE) $(if $(SCORE),--score $(TASK),--key $(KEY)) || [ $$? -eq 75 ]
clean:
	rm -rf $(WORK)
