# recipe.mk - what the whole recipes (minitron.mk, in-practice.mk) share: their data, their scores and their report
#
# To be included after WORK is set; it gives
#
#	TEACHER DATA CALIB             checked; TEXT (SAMPLES, TRAIN_SAMPLES, SEQ, SEED, CALIBOPTS) made into DATA and CALIB
#	$(call score,OUT,MODEL)        scores when EVAL (options of evalharness; EVAL_INPUTS: the files that they name) asks for them
#	$(call report,NAMES,STUDENTS)  rules for all, report, clean: WORK/report.txt has a row for the teacher and each WORK/NAME;
#	                               it waits for the STUDENTS' directories and all scores.  To be used with $(eval), last
#
# SPDX-License-Identifier: Apache-2.0
include $(dir $(lastword $(MAKEFILE_LIST)))rules.mk

SAMPLES ?= 1024
TRAIN_SAMPLES ?= 0
SEQ ?= 4096
SEED ?= 1

ifeq ($(TEACHER),)
$(error TEACHER=DIR is missing: the model to start from)
endif
ifeq ($(DATA)$(TEXT),)
$(error DATA=TOKENS or TEXT=FILES is missing: what to distil on)
endif
ifneq ($(and $(word 2,$(DATA)),$(strip $(foreach w,$(DATA),$(if $(findstring =,$w),,$w)))),)
$(error DATA="$(DATA)" is more than one token set: domains have names, DATA="web=web.tok code=code.tok"; or let calib-sample join the texts)
endif
ifneq ($(and $(findstring =,$(DATA)),$(if $(TEXT)$(CALIB),,1)),)
$(error DATA="$(DATA)" are domains: CALIB=TOKENS is needed)
endif

ifneq ($(TEXT),)
sampled = $(call calib-sample,$1,$(TEACHER),$(TEXT),$(CALIBOPTS) --samples $2 --seq $(SEQ) --seed $(SEED))
ifeq ($(DATA),)
DATA := $(WORK)/train.tok
$(eval $(call sampled,$(DATA),$(TRAIN_SAMPLES)))
endif
ifeq ($(CALIB),)
CALIB := $(WORK)/calib.tok
$(eval $(call sampled,$(CALIB),$(SAMPLES)))
endif
endif
CALIB ?= $(DATA)

scores :=
score = $(if $(EVAL),$(eval $(call evalharness,$1,$2,$(EVAL_INPUTS),$(EVAL)))$(eval scores += $1))

.PHONY: all report clean
define report
$(call score,$(WORK)/teacher/results.json,$(TEACHER))
$(call stamp,$(WORK)/report.cmd,$(addprefix $(WORK)/,teacher $1))
$(WORK)/teacher/model: $(TEACHER)/config.json
	@mkdir -p $$(@D) && ln -sfn $(abspath $(TEACHER)) $$@
$(WORK)/report.txt: $(2:%=%/config.json) $(scores) $(WORK)/report.cmd | $(WORK)/teacher/model
	$(REPORT) -f $(addprefix $(WORK)/,teacher $1) -o $(WORK)/report.html | tee $$@.tmp
	@mv $$@.tmp $$@
all: $(WORK)/report.txt
report: $(WORK)/report.txt
	@cat $$<
clean:
	rm -rf $(WORK)
endef
