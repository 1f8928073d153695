# distil.mk - what recovery needs: the same tokens spent on different starts, losses, shapes, steps and teachers
#
#	make -f pipelines/distil.mk TEACHER=smollm2 TEXT=train.jsonl HELD=valid.jsonl STEPS=160 \
#	     WIDTH="--ffn 512" HALFWAY="--ffn 1024" DEPTH="--layers 15" ABLATION="--metric loss --mode block:15"
#
# Every row of the table trains for STEPS steps on the same sequences in the same order with the same schedule; WIDTH and
# DEPTH should give equal numbers of parameters, HALFWAY is the model in between of the two-step row (each step has STEPS/2,
# the second on other text).
#
#	teacher, corrected         the original; the original after STEPS of cross-entropy on the same data
#	width, depth, random-width cut by importance, by the importance of blocks, by chance; not trained
#	scratch-ce                 WIDTH's shape from random weights, cross-entropy
#	width-ce -kl -rkl -mse     cut, then cross-entropy, forward KL, reverse KL, squared error of logits
#	random-width-kl            cut by chance, then forward KL
#	depth-kl depth-kl-hidden   the same for depth; with the loss on hidden states that served best in arXiv 2407.14679, table 17
#	two-step-kl                to HALFWAY, distil, measure again, to WIDTH, distil
#	corrected-kl               cut from and taught by the corrected teacher (which learnt at CORRECTION_LR, a fifth of LR as in arXiv 2408.11796)
#
# SAMPLES calibration sequences, SEQ tokens, BATCH MICRO LR MIN_LR WARMUP SEED for kd-train, ABLATION: options of ablate that say which
# blocks DEPTH leaves out ("--metric loss --mode block:15"; else block importance does), HIDDEN: the loss on hidden states,
# ROWS: a part of the rows.  WORK/report.txt is the result, report.html shows the curves.
# SPDX-License-Identifier: Apache-2.0
here := $(dir $(lastword $(MAKEFILE_LIST)))
.DEFAULT_GOAL := all
include $(here)rules.mk

WORK ?= build/distil
SAMPLES ?= 64
SEQ ?= 256
STEPS ?= 160
BATCH ?= 4
MICRO ?= $(BATCH)
LR ?= 5e-4
MIN_LR ?= 5e-5
CORRECTION_LR ?= 1e-4
WARMUP ?= 10
SEED ?= 1
LIMIT ?= 32
MAXLEN ?= 1024
ABLATION ?=
HIDDEN ?= cosine@emb,mlp.last-2:last-2
UNTRAINED := teacher width depth random-width
TRAINED := corrected scratch-ce width-ce width-kl width-rkl width-mse random-width-kl depth-kl depth-kl-hidden two-step-kl corrected-kl
ROWS ?= $(UNTRAINED) $(TRAINED)
$(foreach v,TEACHER TEXT HELD WIDTH HALFWAY DEPTH,$(if $($v),,$(error $v= is missing: see the head of distil.mk)))

$(eval $(call calib-sample,$(WORK)/train.tok,$(TEACHER),$(TEXT),--samples $(shell echo $$(($(STEPS) * $(BATCH)))) --seq $(SEQ) --seed $(SEED)))
half := $(shell echo $$(($(STEPS) / 2)))
$(eval $(call calib-sample,$(WORK)/second.tok,$(TEACHER),$(TEXT),--samples $(shell echo $$(($(half) * $(BATCH)))) --seq $(SEQ) --seed 3))
$(eval $(call calib-sample,$(WORK)/calib.tok,$(TEACHER),$(TEXT),--samples $(SAMPLES) --seq $(SEQ) --seed 2))

# ---- models that are cut: $(call measure,NAME,MODEL) gives statistics, $(call cut,NAME,MODEL,STATISTICS' NAME,OPTIONS OF rank,OF trim) ----
measure = $(call act-stats,$(WORK)/$1/stats,$2,$(WORK)/calib.tok,--dtype bf16)
define cut
$(call rank,$(WORK)/$1/rank,$(WORK)/$3/stats,$4)
$(call trim,$(WORK)/$1/model,$2,$(WORK)/$1/rank,$5)
endef
$(eval $(call measure,teacher,$(TEACHER)))
$(eval $(call cut,width,$(TEACHER),teacher,,$(WIDTH)))
$(eval $(call cut,random-width,$(TEACHER),teacher,--metric random -m $(TEACHER),$(WIDTH)))
$(if $(ABLATION),$(eval $(call ablate,$(WORK)/depth/stats,$(TEACHER),$(WORK)/calib.tok,--dtype bf16 $(ABLATION))))
$(eval $(call cut,depth,$(TEACHER),$(if $(ABLATION),depth,teacher),,$(DEPTH)))
$(eval $(call cut,halfway,$(TEACHER),teacher,,$(HALFWAY)))
$(eval $(call step,$(WORK)/scratch/model/config.json,$(WORK)/scratch/model,$(WORK)/width/model/config.json,,mkmodel --like $(WORK)/width/model --store bf16 --seed $(SEED) -o $(WORK)/scratch/model,-f))
$(WORK)/teacher/model/config.json: $(TEACHER)/config.json
	@mkdir -p $(WORK)/teacher && ln -sfn $(abspath $(TEACHER)) $(WORK)/teacher/model

# ---- models that are trained: $(call train,NAME,TEACHER OR NOTHING,STUDENT,OPTIONS[,STEPS,DATA]) ----
common := --batch $(BATCH) --micro $(MICRO) --seq $(SEQ) --min-lr $(MIN_LR) --warmup $(WARMUP) --seed $(SEED) --save-every 0
train = $(call kd-train,$(WORK)/$1/kd,$2,$3,$(WORK)/$(or $6,train).tok,$(common) --lr $(if $(filter corrected,$1),$(CORRECTION_LR),$(LR)) --steps $(or $5,$(STEPS)) $4)
w := $(WORK)/width/model
c := $(WORK)/corrected/kd/student
$(eval $(call train,corrected,,$(TEACHER),--loss ce))
$(eval $(call train,scratch-ce,,$(WORK)/scratch/model,--loss ce))
$(eval $(call train,width-ce,,$w,--loss ce))
$(foreach l,kl rkl mse,$(eval $(call train,width-$l,$(TEACHER),$w,--loss $l)))
$(eval $(call train,random-width-kl,$(TEACHER),$(WORK)/random-width/model,--loss kl))
$(eval $(call train,depth-kl,$(TEACHER),$(WORK)/depth/model,--loss kl))
$(eval $(call train,depth-kl-hidden,$(TEACHER),$(WORK)/depth/model,--loss kl --hidden-loss '$(HIDDEN)'))
$(eval $(call train,halfway,$(TEACHER),$(WORK)/halfway/model,--loss kl,$(half)))
$(eval $(call measure,two-step,$(WORK)/halfway/kd/student))
$(eval $(call cut,two-step,$(WORK)/halfway/kd/student,two-step,,$(WIDTH)))
$(eval $(call train,two-step-kl,$(TEACHER),$(WORK)/two-step/model,--loss kl,$(half),second))
$(eval $(call measure,corrected-width,$c))
$(eval $(call cut,corrected-width,$c,corrected-width,,$(WIDTH)))
$(eval $(call train,corrected-kl,$c,$(WORK)/corrected-width/model,--loss kl))

# ---- scores and the table ----
model = $(WORK)/$1/$(if $(filter $1,$(TRAINED)),kd/student,model)
$(foreach r,$(ROWS),$(eval $(call evalharness,$(WORK)/$r/results.json,$(call model,$r),$(HELD),--task held-out:ppl=$(HELD) --limit $(LIMIT) --max-length $(MAXLEN))))
$(eval $(call stamp,$(WORK)/report.cmd,$(ROWS)))
$(WORK)/report.txt: $(ROWS:%=$(WORK)/%/results.json) $(WORK)/report.cmd
	$(REPORT) -f $(ROWS:%=$(WORK)/%) -o $(WORK)/report.html | tee $@.tmp
	@mv $@.tmp $@

.PHONY: all
all: $(WORK)/report.txt
