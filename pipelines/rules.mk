# rules.mk - one recipe per stage, for experiments written as makefiles
#
#	include path/to/rules.mk
#	$(call calib-sample,OUT,MODEL,TEXTS,OPTIONS)          text -> tokens
#	$(call act-stats,OUT,MODEL,TOKENS,OPTIONS,MORE INPUTS) model, tokens -> statistics
#	$(call ablate,OUT,MODEL,TOKENS,OPTIONS,MORE INPUTS)   model, tokens -> statistics of parts left out
#	$(call rank,OUT,STATS...,OPTIONS)                     statistics -> ranking
#	$(call candidates,OUT,MODEL,OPTIONS)                  shapes within a budget
#	$(call trim,OUTDIR,MODEL,RANKING,OPTIONS,MORE INPUTS) smaller model
#	$(call kd-train,RUNDIR,TEACHER,STUDENT,TOKENS,OPTIONS,MORE INPUTS)   RUNDIR/student: the trained model;
#	                                                      without TEACHER: conventional training, --loss ce in OPTIONS;
#	                                                      TOKENS: a file, or domains NAME=FILE NAME=FILE ...
#	$(call evalharness,OUT,MODEL,INPUTS,OPTIONS)          scores
#	$(call run,OUT,INPUTS,COMMAND)                        anything else that writes OUT atomically
#
# Each gives rules, to be used as $(eval $(call ...)).  A model is a directory; make watches its config.json.
#
# What re-runs: OUT depends on its inputs and on OUT.cmd, which holds the command line and is rewritten only when the
# text changes.  So an edited option re-runs that stage and what follows, nothing else; `make -n` tells beforehand.
# Stages write under a temporary name, so whatever exists is complete, and a killed run goes on where it was.
# OUT.log holds the stage's events (times, progress) and is never read by a rule.
#
# Variables: BIN (where the programs are; default: build/bin, else $PATH), LAUNCH (put before the stages that compute: mpirun, srun,
# taskset), RUNOPTS (options that do not change results: --threads 8, -q), and for an ablation any program
# in place of a stage: make ... RANK=./my-rank.  TRACK_PROGRAMS=1 makes outputs depend on the programs' contents too.
#
# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += -rR

BIN ?= $(abspath $(wildcard $(dir $(lastword $(MAKEFILE_LIST)))../build/bin))
ifneq ($(BIN),)
export PATH := $(BIN):$(PATH)
endif
CALIB_SAMPLE ?= calib-sample
ACT_STATS ?= act-stats
ABLATE ?= ablate
RANK ?= rank
CANDIDATES ?= candidates
TRIM ?= trim
KD_TRAIN ?= kd-train
EVALHARNESS ?= evalharness
REPORT ?= report
LAUNCH ?=
RUNOPTS ?=

.PHONY: FORCE
FORCE:

# same A,B: "1" when the texts are equal; quoted TEXT: one word of the shell
same = $(if $(and $(findstring <$1>,<$2>),$(findstring <$2>,<$1>)),1)
quoted = '$(subst ','\'',$1)'
# what PROGRAM is, when its contents matter
digest = $(if $(TRACK_PROGRAMS), (cksum $(firstword $(shell PATH="$(BIN):$$PATH" && cksum <"$$(command -v $(firstword $1))"))))

# $(call stamp,FILE,TEXT): FILE holds TEXT; rewritten only when it does not (make 4.3 keeps the last newline at times: strip)
define stamp
$1: $(if $(call same,$(strip $(file <$1)),$(strip $2)),,FORCE)
	@mkdir -p $(dir $1) && rm -f $(1:.cmd=.log) && printf '%s\n' $(subst $$,$$$$,$(call quoted,$2)) >$1
endef

# $(call step,TARGET,STEM,INPUTS,LAUNCHER,COMMAND,UNSTAMPED OPTIONS): the rule behind all stages
define step
$(call stamp,$2.cmd,$(strip $5)$(call digest,$5))
$1: $3 $2.cmd
	$(strip $4 $5 $6)
endef

# Programs of adze take -f (make decides what is stale) and report their events; LAUNCH is for the heavy ones.
quick = $(call step,$1,$2,$3,,$4,-f --events $2.log $(RUNOPTS))
heavy = $(call step,$1,$2,$3,$(LAUNCH),$4,-f --events $2.log $(RUNOPTS))

run = $(call step,$1,$1,$2,,$3)
calib-sample = $(call quick,$1,$1,$2/config.json $3,$(CALIB_SAMPLE) -t $2 $4 -o $1 $3)
act-stats = $(call heavy,$1,$1,$2/config.json $3 $5,$(ACT_STATS) -m $2 $4 -o $1 $3)
ablate = $(call heavy,$1,$1,$2/config.json $3 $5,$(ABLATE) -m $2 $4 -o $1 $3)
rank = $(call quick,$1,$1,$2,$(RANK) $3 -o $1 $2)
candidates = $(call quick,$1,$1,$2/config.json,$(CANDIDATES) -m $2 $3 -o $1)
trim = $(call quick,$1/config.json,$1,$2/config.json $3 $5,$(TRIM) -m $2 -r $3 $4 -o $1)
evalharness = $(call heavy,$1,$1,$2/config.json $3,$(EVALHARNESS) -m $2 $4 -o $1)

# kd-train resumes from RUNDIR by itself, which is right after a kill and wrong after an edit: RUNDIR.new is renewed,
# and RUNDIR emptied, exactly when the command or an input has changed.
# the files of words that are FILE or NAME=FILE
files = $(foreach w,$1,$(lastword $(subst =, ,$w)))
define kd-train
$1.new: $(2:%=%/config.json) $3/config.json $(call files,$4 $6) $1.cmd
	rm -rf $1 $1.log
	@touch $$@
$(call step,$1/student/config.json,$1,$1.new,$(LAUNCH),$(KD_TRAIN) $(2:%=--teacher %) --student $3 $(addprefix --data ,$4) $5 -o $1,--events $1.log $(RUNOPTS))
endef
