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
# hidden sizes that transformers takes are multiples of the heads
chan = $(shell echo $$(( $(H) * $1 / $2 / $(Q) * $(Q) )))

CUT_whole := --layers $(L)
CUT_ffn-3/4 := --ffn $(call part,$(F),3,4)
CUT_ffn-1/2 := --ffn $(call part,$(F),1,2)
CUT_heads-2/3 := --heads $(call heads,2,3)
CUT_heads-1/3 := --heads $(call heads,1,3)
CUT_hidden-3/4 := --hidden $(call chan,3,4)
CUT_hidden-1/2 := --hidden $(call chan,1,2)
CUT_depth-3/4 := --layers $(call part,$(L),3,4)
CUT_depth-1/2 := --layers $(call part,$(L),1,2)
WIDTH := ffn-3/4 ffn-1/2 heads-2/3 heads-1/3 hidden-3/4 hidden-1/2
DEPTH := depth-3/4 depth-1/2

comma := ,
AGGS := $(foreach b,l2 mean var,$(foreach s,mean l2 var,agg-$b-$s))
OTHERS := magnitude wanda-sp wifv wnorm-absmean random
METRICS := $(AGGS) agg-l2-mean-pre agg-l2-mean-norm-first $(OTHERS)
word_ = $(word $2,$(subst -, ,$1))
$(foreach m,$(AGGS),$(eval RANK_$m := --agg batch=$(call word_,$m,2)$(comma)seq=$(call word_,$m,3)))
RANK_agg-l2-mean-pre := --neuron pre
RANK_agg-l2-mean-norm-first := --head norm-first
$(foreach m,$(OTHERS),$(eval RANK_$m := --metric $m -m $(MODEL)))
# depth: block importance whatever the width metric, a contiguous run that spares the last layer, and chance
first = $(shell echo $$(( $(L) - 1 - $(L) * $1 / $2 )))
DROP_depth-3/4 := $(call first,1,4)-$(shell echo $$(( $(L) - 2 )))
DROP_depth-1/2 := $(call first,1,2)-$(shell echo $$(( $(L) - 2 )))

cell = $(WORK)/$1.$(subst /,of,$2).json
score = evalharness -m $1 --task held:ppl=$(HELD) --limit $(LIMIT) --max-length $(MAXLEN) --dtype bf16
# $(call cut,METRIC,CUT,HOW): trim, score, forget
cut = $(call run,$(call cell,$1,$2),$(WORK)/$1.rank $(HELD),trim -q -f -m $(MODEL) $3 --allow-uneven -o $(call cell,$1,$2).d && $(call score,$(call cell,$1,$2).d) -q -f -o $(call cell,$1,$2) && rm -r $(call cell,$1,$2).d)

$(eval $(call calib-sample,$(WORK)/calib.tok,$(MODEL),$(TEXT),--samples $(SAMPLES) --seq $(SEQ)))
$(eval $(call act-stats,$(WORK)/stats,$(MODEL),$(WORK)/calib.tok,--dtype bf16))
$(foreach m,$(METRICS),$(eval $(call rank,$(WORK)/$m.rank,$(WORK)/stats,$(RANK_$m))))
$(foreach m,$(METRICS),$(foreach c,$(WIDTH),$(eval $(call cut,$m,$c,-r $(WORK)/$m.rank $(CUT_$c)))))
$(foreach m,agg-l2-mean random,$(foreach c,$(DEPTH),$(eval $(call cut,$m,$c,-r $(WORK)/$m.rank $(CUT_$c)))))
$(WORK)/run.rank: $(WORK)/agg-l2-mean.rank
	cp $< $@
$(foreach c,$(DEPTH),$(eval $(call cut,run,$c,--drop $(DROP_$c))))
$(eval $(call cut,agg-l2-mean,whole,-r $(WORK)/agg-l2-mean.rank $(CUT_whole)))
cells := $(foreach m,$(METRICS),$(foreach c,$(WIDTH),$(call cell,$m,$c))) \
	$(foreach m,agg-l2-mean random run,$(foreach c,$(DEPTH),$(call cell,$m,$c))) $(call cell,agg-l2-mean,whole)

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
	$(foreach m,agg-l2-mean run random,printf '| %s |' '$(subst agg-l2-mean,block importance,$(subst run,contiguous$(comma) last layer kept,$m))'; $(foreach c,$(DEPTH),loss $(call cell,$m,$c);) echo;) \
	} >$@.tmp && mv $@.tmp $@
