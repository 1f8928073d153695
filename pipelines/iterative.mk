# iterative.mk - importance in rounds: each round measures the model as the round before has cut it, in memory
#
#	make -f pipelines/iterative.mk MODEL=teacher CALIB=calib.tok ROUNDS=4 FFN=9216 HIDDEN=3072 [HEADS=N] [KV_HEADS=N] [LAYERS=N]
#
# Round i of T measures with masks (act-stats --keep) the model cut (i-1)/T of the way to the target, and ranks again; trim
# then cuts the whole way by the last ranking.  Nothing but statistics and rankings is written between.  What has been masked
# stays behind: its statistics are zero.  ROUNDS=1 is the one-shot ranking that minitron.mk uses.
#
#	MODEL CALIB           what to cut, and tokens to measure on
#	LAYERS HIDDEN FFN HEADS KV_HEADS   the target; what is not given stays (KV_HEADS: query groups go with their heads)
#	ROUNDS                T (4)
#	STATSOPTS RANKOPTS TRIMOPTS   more options of those stages
#	WORK                  where everything goes (build/iterative): roundN.stats, roundN.rank, student/
#
# SPDX-License-Identifier: Apache-2.0
here := $(dir $(lastword $(MAKEFILE_LIST)))
.DEFAULT_GOAL := all
include $(here)rules.mk

MODEL ?=
CALIB ?=
WORK ?= build/iterative
ROUNDS ?= 4
ifeq ($(and $(MODEL),$(CALIB)),)
$(error MODEL=DIR and CALIB=TOKENS are needed)
endif
ifeq ($(LAYERS)$(HIDDEN)$(FFN)$(HEADS)$(KV_HEADS),)
$(error say what to keep: LAYERS=, HIDDEN=, FFN=, HEADS= or KV_HEADS=)
endif

# $(call field,KEY): a number of the model's config.json
field = $(shell sed -n 's/.*"$1": *\([0-9]*\).*/\1/p' $(MODEL)/config.json | head -n 1)
# $(call part,SIZE,TARGET,ROUND,STEP): SIZE less (ROUND-1)/T of the way to TARGET, rounded up to a multiple of STEP
part = $(shell echo $$((($1 - ($1 - $2) * ($3 - 1) / $(ROUNDS) + $4 - 1) / $4 * $4)))
groups := $(or $(call field,num_key_value_heads),$(call field,num_attention_heads))
# $(call groups_of,ROUND): query groups of that round; the heads are a multiple of them, unless each head is a group
groups_of = $(if $(KV_HEADS),$(call part,$(groups),$(KV_HEADS),$1,1),$(if $(filter $(groups),$(call field,num_attention_heads)),1,$(groups)))
# $(call sizes,ROUND): options for that round's cut
sizes = $(strip $(if $(LAYERS),--layers $(call part,$(call field,num_hidden_layers),$(LAYERS),$1,1)) \
	$(if $(HIDDEN),--hidden $(call part,$(call field,hidden_size),$(HIDDEN),$1,1)) \
	$(if $(FFN),--ffn $(call part,$(call field,intermediate_size),$(FFN),$1,1)) \
	$(if $(KV_HEADS),--kv-heads $(call groups_of,$1)) \
	$(if $(HEADS),--heads $(call part,$(call field,num_attention_heads),$(HEADS),$1,$(call groups_of,$1))))
target := $(strip $(addprefix --layers ,$(LAYERS)) $(addprefix --hidden ,$(HIDDEN)) $(addprefix --ffn ,$(FFN)) $(addprefix --heads ,$(HEADS)) \
	$(addprefix --kv-heads ,$(KV_HEADS)))

# $(call round,ROUND,RANKING OF THE ROUND BEFORE)
define round
$(call act-stats,$(WORK)/round$1.stats,$(MODEL),$(CALIB),$(STATSOPTS) $(if $2,--keep $2 $(call sizes,$1)),$2)
$(call rank,$(WORK)/round$1.rank,$(WORK)/round$1.stats,$(RANKOPTS))
endef
previous :=
$(foreach i,$(shell seq $(ROUNDS)),$(eval $(call round,$i,$(previous)))$(eval previous := $(WORK)/round$i.rank))
$(eval $(call trim,$(WORK)/student,$(MODEL),$(previous),$(target) $(TRIMOPTS)))

.PHONY: all clean
all: $(WORK)/student/config.json
clean:
	rm -rf $(WORK)
