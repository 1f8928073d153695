"""Tiny random models of every family and what PyTorch computes with them: the fixtures of tests/golden.

Writes, below OUT (tests/golden):
  models/NAME/            config.json, model.safetensors (weights are bf16-representable whatever they are stored in)
  NAME.safetensors        ids I32 [2,17] · logits F32 [2,17,V] · stat.* score.* order.* METRIC.* of importance.py · ablate.*, compensate.* of ablations.py
  kd-NAME.safetensors     losses, gradients and three optimizer steps of kd_step.py, teacher NAME, student NAME-student
  losses-NAME.safetensors every loss of kd_losses.py on the same pair; gradients of the first, norms of nemotron
  docs-NAME.safetensors   a step with documents kept apart, of kd_documents.py on the same pair
  hidden-NAME.safetensors losses between hidden states of kd_hidden.py on the same pair
  curve-NAME.safetensors  fifty optimizer steps of kd_curve.py on the same pair
  lora-NAME.safetensors   low-rank adapters of kd_lora.py on the same pair
Coverage: llama-tied-gqa - tied, 3 query heads per kv head, heads*head_dim != hidden, stored bf16;  llama-untied - llama3
rope scaling with all three frequency bands, shards of 48 KB, f32;  nemotron - LayerNorm1P with biases, squared ReLU, half of
each head rotated.  The last two have the older spelling of config.json.  qwen3 - norms of query and key heads;  gemma3 -
norms after each part, (1 + w), scaled embeddings, GeGLU, one sliding and one full block, two rotary bases, linear rope
scaling, the hub's older spelling;  qwen2 - biases of q, k, v, the second block slides;  mistral - all blocks slide;  llama-bias - a bias
in every linear (the last three: logits only);  nemotron-deep - 3 layers to a student of 1 (kd_curve.py only).  Random by seed: run again, get the same bytes.
"""
import argparse, json, os, shutil
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, NemotronConfig, Qwen2Config, Qwen3Config
import ablations, importance, kd_curve, kd_documents, kd_hidden, kd_lora, kd_losses, kd_step
from common import load

V = 96
BASE = dict(vocab_size=V, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=128)
GEMMA = dict(hidden_activation="gelu_pytorch_tanh", sliding_window=5, query_pre_attn_scalar=10, rope_parameters={
    "sliding_attention": dict(rope_type="default", rope_theta=100.0),
    "full_attention": dict(rope_type="linear", rope_theta=5000.0, factor=4.0)})
HALF = dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)

DOCUMENTS = ("llama-tied-gqa", "nemotron", "gemma3")
HIDDEN = {"llama-tied-gqa": ("last", "mixed", "rel"), "llama-untied": ("uniform",), "nemotron": ("last", "relv")}   # cases of kd_hidden.py

LORA = ("llama-tied-gqa", "nemotron")          # of kd_lora.py

CURVE = {"llama-tied-gqa": ("embed_tokens", "o_proj"), "nemotron-deep": ()}   # matrices without decay


def shape(layers, hidden, ffn, heads, kv, head_dim, **k):
    return dict(BASE | k, num_hidden_layers=layers, hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads,
                num_key_value_heads=kv, head_dim=head_dim)


MODELS = {
    "llama-tied-gqa": (LlamaConfig, shape(2, 24, 40, 6, 2, 8, tie_word_embeddings=True, rms_norm_eps=1e-5), "bfloat16"),
    "llama-tied-gqa-student": (LlamaConfig, shape(1, 16, 28, 4, 2, 8, tie_word_embeddings=True, rms_norm_eps=1e-5), "bfloat16"),
    "llama-untied": (LlamaConfig, shape(3, 32, 44, 4, 4, 8, tie_word_embeddings=False, rope_parameters=LLAMA3), "float32"),
    "llama-untied-student": (LlamaConfig, shape(2, 20, 36, 4, 4, 8, tie_word_embeddings=False, rope_parameters=LLAMA3), "bfloat16"),
    "nemotron": (NemotronConfig, shape(2, 28, 44, 4, 2, 8, norm_eps=1e-5, rope_parameters=HALF), "bfloat16"),
    "nemotron-student": (NemotronConfig, shape(2, 20, 36, 2, 2, 8, norm_eps=1e-5, rope_parameters=HALF), "bfloat16"),
    "qwen3": (Qwen3Config, shape(2, 12, 14, 4, 2, 6, vocab_size=48), "bfloat16"),
    "qwen3-student": (Qwen3Config, shape(1, 8, 10, 2, 2, 6, vocab_size=48), "bfloat16"),
    "gemma3": (Gemma3TextConfig, shape(2, 12, 14, 4, 2, 6, vocab_size=48, sliding_window_pattern=2, **GEMMA), "bfloat16"),
    "gemma3-student": (Gemma3TextConfig, shape(2, 8, 10, 2, 2, 6, vocab_size=48, layer_types=["full_attention", "sliding_attention"], **GEMMA), "bfloat16"),
    "qwen2": (Qwen2Config, shape(2, 12, 14, 4, 2, 6, vocab_size=48, use_sliding_window=True, sliding_window=5, max_window_layers=1), "bfloat16"),
    "mistral": (MistralConfig, shape(2, 12, 14, 4, 2, 6, vocab_size=48, sliding_window=7), "bfloat16"),
    "llama-bias": (LlamaConfig, shape(2, 12, 14, 4, 2, 6, vocab_size=48, attention_bias=True, mlp_bias=True), "bfloat16"),
    "nemotron-deep": (NemotronConfig, shape(3, 24, 32, 3, 1, 8, vocab_size=48, norm_eps=1e-5, rope_parameters=HALF), "bfloat16"),
    "nemotron-deep-student": (NemotronConfig, shape(1, 16, 24, 2, 1, 8, vocab_size=48, norm_eps=1e-5, rope_parameters=HALF), "bfloat16"),
}


def random_model(config, seed):
    """Weights large enough that attention, activation and logits are far from uniform."""
    m = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in m.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if p.ndim == 2:
                r *= 0.5 if "embed" in name else 1.3 / p.shape[1] ** 0.5
            else:  # a gain near 1 (stored minus 1 by Nemotron and Gemma), or a bias
                gain = name.endswith("norm.weight") and config.model_type not in ("nemotron", "gemma3_text")
                r = 0.2 * r + (1.0 if gain else 0.0)
            p.copy_(r.bfloat16().float())
    return m


def old_spelling(path):
    """config.json as transformers before 5 wrote it."""
    c = json.load(open(path))
    r = c.pop("rope_parameters")
    if "sliding_attention" in r:   # Gemma; its files say neither which blocks slide nor that embeddings are tied
        c["rope_local_base_freq"] = r["sliding_attention"]["rope_theta"]
        c["sliding_window_pattern"] = c.pop("layer_types").index("full_attention") + 1
        c.pop("tie_word_embeddings", None)
        r = r["full_attention"]
    c.update({k: r.pop(k) for k in ("rope_theta", "partial_rotary_factor") if k in r}, torch_dtype=c.pop("dtype"))
    c["rope_scaling"] = r if r["rope_type"] != "default" else None
    json.dump(c, open(path, "w"), indent=2, sort_keys=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("out", nargs="?", default="tests/golden")
    out = ap.parse_args().out
    torch.set_num_threads(1)
    for seed, (name, (cls, args, dtype)) in enumerate(MODELS.items()):
        d = os.path.join(out, "models", name)
        shutil.rmtree(d, ignore_errors=True)
        m = random_model(cls(**args), 100 + seed).to(getattr(torch, dtype))
        m.save_pretrained(d, max_shard_size="48KB" if name == "llama-untied" else "1GB")
        os.remove(os.path.join(d, "generation_config.json"))
        if name in ("llama-untied", "nemotron", "gemma3"):
            old_spelling(os.path.join(d, "config.json"))
    for seed, (name, free) in enumerate(CURVE.items()):
        teacher, student = (load(os.path.join(out, "models", name + of), attn="eager") for of in ("", "-student"))
        save_file(kd_curve.fixture(teacher, student, 300 + seed, free), os.path.join(out, f"curve-{name}.safetensors"))
    for seed, name in enumerate(n for n in MODELS if not n.endswith("-student") and n != "nemotron-deep"):
        teacher = load(os.path.join(out, "models", name), attn="eager")
        ids = torch.randint(0, teacher.config.vocab_size, (2, 17), generator=torch.Generator().manual_seed(200 + seed))
        with torch.no_grad():
            t = {"ids": ids.int(), "logits": teacher(ids, use_cache=False).logits}
        if name + "-student" in MODELS:
            t.update(importance.fixture(teacher, ids))
            t.update(ablations.fixture(teacher, ids))
        if name in ("llama-tied-gqa", "nemotron"):
            t.update(ablations.compensated(teacher, ids))
        save_file({k: v.contiguous() for k, v in t.items()}, os.path.join(out, name + ".safetensors"))
        if name + "-student" in MODELS:
            student = load(os.path.join(out, "models", name + "-student"), attn="eager")
            if name in ("llama-tied-gqa", "nemotron"):
                save_file(kd_losses.fixture(teacher, student, ids, name != "nemotron"), os.path.join(out, f"losses-{name}.safetensors"))
            if name in DOCUMENTS:
                save_file(kd_documents.fixture(teacher, student, ids), os.path.join(out, f"docs-{name}.safetensors"))
            if name in HIDDEN:
                save_file(kd_hidden.fixture(teacher, student, ids, HIDDEN[name]), os.path.join(out, f"hidden-{name}.safetensors"))
            if name in LORA:
                save_file(kd_lora.fixture(teacher, load(os.path.join(out, "models", name + "-student"), attn="eager"), ids), os.path.join(out, f"lora-{name}.safetensors"))
            save_file(kd_step.fixture(teacher, student, ids), os.path.join(out, f"kd-{name}.safetensors"))


if __name__ == "__main__":
    main()
