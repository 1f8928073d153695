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
BUDGET_two-thirds := --nonembedding 70.8M --tolerance 1%
GRID_two-thirds := --layers 28 --hidden 576 --ffn 512:1536:64 --heads 9
BUDGET_one-third := --nonembedding 35.4M --tolerance 2%
GRID_one-third := --layers 20 --hidden 576 --ffn 384:960:64 --heads 9

TEXT := $(text)/train.jsonl
SAMPLES := 32
SEQ := 512
TRAIN_SAMPLES := 2048
STEPS := 48
STEPS_one-third := 64
BATCH := 2
LR := 5e-4
MIN_LR := 5e-5
WARMUP := 4
STATSOPTS := --dtype bf16
KDOPTS := --dtype bf16
EVAL_INPUTS := $(text)/excerpts.jsonl $(text)/cloze.jsonl
EVAL := --task held-out=$(text)/excerpts.jsonl --task cloze=$(text)/cloze.jsonl --limit 48 --dtype bf16

.NOTPARALLEL:
include $(dir $(lastword $(MAKEFILE_LIST)))minitron.mk

# ---- fetched, once ----
$(gguf):
	$(tools)/fetch-demo-model $(WORK)
$(text)/train.jsonl $(text)/valid.jsonl $(text)/cloze.jsonl $(text)/excerpts.jsonl &:
	$(tools)/fetch-demo-text $(text)
$(eval $(call step,$(TEACHER)/config.json,$(TEACHER),$(gguf),,gguf-import $(gguf) -o $(TEACHER),-f --events $(TEACHER).log))
