# metrics.mk - every importance metric on one model: held-out loss after cutting one axis, without any retraining
#
#	make -f pipelines/metrics.mk MODEL=DIR TEXT=train.jsonl HELD=valid.jsonl [WORK=build/metrics]
#
# One pass of act-stats serves all metrics.  A trimmed model lives only while it is scored.  $(WORK)/table.md is the result:
# rows are metrics, columns are cuts, cells the mean loss per token in nats.  Sizes follow the model's config.
# SPDX-License-Identifier: Apache-2.0
WORK ?= build/metrics
SAMPLES ?= 64
SEQ ?= 512
LIMIT ?= 16
ABLATE_SAMPLES ?= 8
MAXLEN ?= 1024
include $(dir $(lastword $(MAKEFILE_LIST)))rules.mk

field = $(shell grep -o '"$1": *[0-9]*' $(MODEL)/config.json | grep -o '[0-9]*$$')
H := $(call field,hidden_size)
F := $(call field,intermediate_size)
L := $(call field,num_hidden_layers)
Q := $(call field,num_attention_heads)
G := $(call field,num_key_value_heads)
part = $(shell echo $$(( $1 * $2 / $3 )))
# query heads: that share of each group, at least one
heads = $(shell echo $$(( $(G) * ( ($(Q) / $(G)) * $1 / $2 > 0 ? ($(Q) / $(G)) * $1 / $2 : 1 ) )))
groups = $(shell echo $$(( $(G) * $1 / $2 > 0 ? $(G) * $1 / $2 : 1 )))
# hidden sizes that transformers takes are multiples of the heads
chan = $(shell echo $$(( $(H) * $1 / $2 / $(Q) * $(Q) )))

CUT_whole := --layers $(L)
CUT_ffn-3/4 := --ffn $(call part,$(F),3,4)
CUT_ffn-1/2 := --ffn $(call part,$(F),1,2)
CUT_heads-2/3 := --heads $(call heads,2,3)
CUT_heads-1/3 := --heads $(call heads,1,3)
CUT_groups-2/3 := --kv-heads $(call groups,2,3)
CUT_groups-1/3 := --kv-heads $(call groups,1,3)
CUT_hidden-3/4 := --hidden $(call chan,3,4)
CUT_hidden-1/2 := --hidden $(call chan,1,2)
CUT_depth-3/4 := --layers $(call part,$(L),3,4)
CUT_depth-1/2 := --layers $(call part,$(L),1,2)
WIDTH := ffn-3/4 ffn-1/2 heads-2/3 heads-1/3 groups-2/3 groups-1/3 hidden-3/4 hidden-1/2
DEPTH := depth-3/4 depth-1/2

comma := ,
AGGS := $(foreach b,l2 mean var,$(foreach s,mean l2 var,agg-$b-$s))
OTHERS := magnitude wanda-sp wifv wnorm-absmean kv-contrib random
# wifv-bias: what wifv removes leaves its mean in a bias (families that have one); nothing stands for a hidden channel
BIASED := $(if $(shell grep -E '"model_type": *"(llama|nemotron)"' $(MODEL)/config.json),wifv-bias)
METRICS := $(AGGS) agg-l2-mean-pre agg-l2-mean-norm-first $(OTHERS) $(BIASED)
word_ = $(word $2,$(subst -, ,$1))
$(foreach m,$(AGGS),$(eval RANK_$m := --agg batch=$(call word_,$m,2)$(comma)seq=$(call word_,$m,3)))
RANK_agg-l2-mean-pre := --neuron pre
RANK_agg-l2-mean-norm-first := --head norm-first
$(foreach m,$(OTHERS),$(eval RANK_$m := --metric $m -m $(MODEL)))
RANK_wifv-bias := $(RANK_wifv)
HOW_wifv-bias := --compensate $(WORK)/stats
# Depth: block importance; the whole model's loss without one layer, without the cheapest again and again, without neighbours;
# the angle over neighbours; chance.  Half of the layers and a quarter share one greedy run: its order is that of removal.
LEFT_depth-3/4 := $(call part,$(L),3,4)
LEFT_depth-1/2 := $(call part,$(L),1,2)
gone = $(shell echo $$(( $(L) - $(LEFT_$1) )))
DEPTH_ROWS := block-importance loss-single loss-greedy loss-block angular-block chance
# $(call depth_rank,ROW,CUT): the ranking that decides there; a window has the width of the cut
depth_rank = $(if $(findstring -block,$1),$1.$(subst /,of,$2),$(subst block-importance,agg-l2-mean,$1))
ABLATE_loss-single := --metric loss
ABLATE_loss-greedy := --metric loss --mode greedy --rounds $(call gone,depth-1/2)
$(foreach m,loss angular,$(foreach c,$(DEPTH),$(eval ABLATE_$(call depth_rank,$m-block,$c) := --metric $m --mode block:$(call gone,$c))))
# that many different layers, the same ones every time
chance = $(subst $() ,$(comma),$(strip $(shell awk 'BEGIN { srand(1); while (n < $(call gone,$1)) { i = int(rand() * $(L)); if (!(i in s)) { s[i]; n++; print i } } }')))

cell = $(WORK)/$1.$(subst /,of,$2).json
score = evalharness -m $1 --task held:ppl=$(HELD) --limit $(LIMIT) --max-length $(MAXLEN) --dtype bf16
# $(call cut,METRIC,CUT,HOW): trim, score, forget
cut = $(call run,$(call cell,$1,$2),$(WORK)/$1.rank $(HELD),trim -q -f -m $(MODEL) $3 --allow-uneven -o $(call cell,$1,$2).d && $(call score,$(call cell,$1,$2).d) -q -f -o $(call cell,$1,$2) && rm -r $(call cell,$1,$2).d)

$(eval $(call calib-sample,$(WORK)/calib.tok,$(MODEL),$(TEXT),--samples $(SAMPLES) --seq $(SEQ)))
$(eval $(call act-stats,$(WORK)/stats,$(MODEL),$(WORK)/calib.tok,--dtype bf16 --sites all))
$(foreach m,$(METRICS),$(eval $(call rank,$(WORK)/$m.rank,$(WORK)/stats,$(RANK_$m))))
$(foreach m,$(METRICS),$(foreach c,$(WIDTH),$(eval $(call cut,$m,$c,-r $(WORK)/$m.rank $(CUT_$c) $(if $(filter-out hidden%,$c),$(HOW_$m))))))
$(foreach m,$(patsubst ABLATE_%,%,$(filter-out %SAMPLES,$(filter ABLATE_%,$(.VARIABLES)))),\
	$(eval $(call ablate,$(WORK)/$m.stats,$(MODEL),$(WORK)/calib.tok,$(ABLATE_$m) --samples $(ABLATE_SAMPLES)))\
	$(eval $(call rank,$(WORK)/$m.rank,$(WORK)/$m.stats,)))
$(foreach r,$(filter-out chance,$(DEPTH_ROWS)),$(foreach c,$(DEPTH),\
	$(eval $(call cut,$(call depth_rank,$r,$c),$c,-r $(WORK)/$(call depth_rank,$r,$c).rank $(CUT_$c)))))
$(WORK)/chance.rank: $(WORK)/agg-l2-mean.rank
	cp $< $@
$(foreach c,$(DEPTH),$(eval $(call cut,chance,$c,--drop $(call chance,$c))))
$(eval $(call cut,agg-l2-mean,whole,-r $(WORK)/agg-l2-mean.rank $(CUT_whole)))
depth_cell = $(call cell,$(call depth_rank,$1,$2),$2)
cells := $(foreach m,$(METRICS),$(foreach c,$(WIDTH),$(call cell,$m,$c))) \
	$(foreach r,$(DEPTH_ROWS),$(foreach c,$(DEPTH),$(call depth_cell,$r,$c))) $(call cell,agg-l2-mean,whole)

.DEFAULT_GOAL := table
.PHONY: table
table: $(WORK)/table.md
	@cat $<
$(WORK)/table.md: $(cells) $(lastword $(MAKEFILE_LIST))
	@{ \
	loss() { [ -e "$$1" ] && grep -o '"token_perplexity,none": *[0-9.e+]*' "$$1" | awk '{ printf " %.3f |", log($$2) }' || printf ' |'; }; \
	echo "Held-out loss in nats per token; uncut:$$(loss $(call cell,agg-l2-mean,whole) | tr -d '|')"; echo; \
	echo '| metric | $(subst $() , | ,$(WIDTH)) |'; echo '|---|$(foreach c,$(WIDTH),---|)'; \
	$(foreach m,$(METRICS),printf '| %s |' '$m'; $(foreach c,$(WIDTH),loss $(call cell,$m,$c);) echo;) \
	echo; echo '| depth | $(subst $() , | ,$(DEPTH)) |'; echo '|---|$(foreach c,$(DEPTH),---|)'; \
	$(foreach r,$(DEPTH_ROWS),printf '| %s |' '$r'; $(foreach c,$(DEPTH),loss $(call depth_cell,$r,$c);) echo;) \
	} >$@.tmp && mv $@.tmp $@
