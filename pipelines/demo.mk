# demo.mk - a real model on real text: SmolLM2-135M-Instruct to 2/3 and to 1/3 of its non-embedding parameters
#
#	make demo            fetch (about 105 MB), measure, rank, choose, trim, distil, score; at most ten minutes on two cores
#
# Everything lands in build/demo: the students in two-thirds/kd/student and one-third/kd/student, report.html.  The rules are
# minitron.mk's; this file only says which model, which text and how long.  Interrupt it and run it again: it goes on.
# SPDX-License-Identifier: Apache-2.0
WORK ?= build/demo
tools := $(dir $(lastword $(MAKEFILE_LIST)))../tools

TEACHER := $(WORK)/smollm2
text := $(WORK)/text
gguf := $(WORK)/SmolLM2-135M-Instruct.Q4_1.gguf

TARGETS := two-thirds one-third
BUDGET_two-thirds := --nonembedding 70.8M
GRID_two-thirds := --layers 30 --hidden 512 --ffn 512:1536:64 --heads 9 --tolerance 2%
BUDGET_one-third := --nonembedding 35.4M
GRID_one-third := --layers 20 --hidden 512 --ffn 512:1024:64 --heads 9 --tolerance 2%

TEXT := $(text)/train.jsonl
SAMPLES := 96
SEQ := 512
TRAIN_SAMPLES := 4096
STEPS := 60
BATCH := 16
MICRO := 4
LR := 6e-4
MIN_LR := 6e-5
WARMUP := 6
EVAL_INPUTS := $(text)/valid.jsonl $(text)/cloze.jsonl
EVAL := --task held-out=$(text)/valid.jsonl --task cloze=$(text)/cloze.jsonl --limit 64

.NOTPARALLEL:
include $(dir $(lastword $(MAKEFILE_LIST)))minitron.mk

# ---- fetched, once ----
$(gguf):
	$(tools)/fetch-demo-model $(WORK)
$(text)/train.jsonl $(text)/valid.jsonl $(text)/cloze.jsonl &:
	$(tools)/fetch-demo-text $(text)
$(eval $(call step,$(TEACHER)/config.json,$(TEACHER),$(gguf),,gguf-import $(gguf) -o $(TEACHER),-f --events $(TEACHER).log))
