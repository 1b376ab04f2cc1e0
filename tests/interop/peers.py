"""Tiny models of `transformers` with random weights at odd sizes, and the same batch for both sides."""

from typing import Any

import numpy as np
import torch
import transformers

from research import models
from research.config import Model
from research.interop import config_json, mapping
from research.interop.mapping import Tensor
from research.interop.names import Names
from research.objectives import Batch

LENGTH = 37
torch.set_num_threads(1)  # for models this small, threads only wait for each other
_BERT = {
    "vocab_size": 97,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 53,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_LLAMA = {
    "vocab_size": 101,
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 52,
    "max_position_embeddings": 128,
}
_T5 = {
    "vocab_size": 99,
    "d_model": 28,
    "d_kv": 10,
    "d_ff": 44,
    "num_layers": 3,
    "num_decoder_layers": 2,  # with more than the encoder has, `generate` of transformers 5.23 fails
    "num_heads": 3,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.0,
}
_SCALED = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5000.0,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5000.0,
}
_NEOX = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 52,
    "max_position_embeddings": 128,
    "rotary_pct": 0.25,
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (class, config)
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 97, "n_positions": 83, "n_embd": 36, "n_layer": 3, "n_head": 3, "n_inner": 50}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "gpt2 untied": (
        "GPT2LMHeadModel",
        {"vocab_size": 97, "n_positions": 83, "n_embd": 36, "n_layer": 2, "n_head": 3, "tie_word_embeddings": False},
    ),
    "llama 2": ("LlamaForCausalLM", {**_LLAMA, "num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama 3.1": ("LlamaForCausalLM", {**_LLAMA, "rope_parameters": _SCALED}),
    "llama biases": ("LlamaForCausalLM", {**_LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 14}),
    "smollm2": ("LlamaForCausalLM", {**_LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2ForCausalLM", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**_LLAMA, "head_dim": 12}),
    "bert": ("BertForMaskedLM", _BERT),
    "bert without head": ("BertModel", _BERT),
    "roberta": ("RobertaForMaskedLM", {**_BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "modernbert": (
        "ModernBertForMaskedLM",
        {"vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 5, "num_attention_heads": 3}
        | {"intermediate_size": 50, "local_attention": 8, "pad_token_id": 0, "global_attn_every_n_layers": 3}
        | {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "t5 1.0": ("T5ForConditionalGeneration", _T5),
    "t5 1.1": (
        "T5ForConditionalGeneration",
        {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "ul2": ("T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-silu", "tie_word_embeddings": False}),
    "mt5": ("MT5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 8}),
    "smollm3": ("SmolLM3ForCausalLM", {**_LLAMA, "no_rope_layer_interval": 2}),
    "pythia": ("GPTNeoXForCausalLM", _NEOX),
    "gpt_neox sequential": ("GPTNeoXForCausalLM", {**_NEOX, "use_parallel_residual": False, "attention_bias": False}),
    "phi3": ("Phi3ForCausalLM", {**_LLAMA, "sliding_window": 9}),
    "olmo2": ("Olmo2ForCausalLM", _LLAMA),
    "olmo3": (
        "Olmo3ForCausalLM",
        {**_LLAMA, "sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
        | {
            "rope_parameters": {
                "full_attention": _YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "stablelm": ("StableLmForCausalLM", {**_LLAMA, "hidden_size": 64, "use_qkv_bias": True}),
    "stablelm parallel": (
        "StableLmForCausalLM",
        {**_LLAMA, "partial_rotary_factor": 0.6, "use_parallel_residual": True},
    ),
    "cohere": ("CohereForCausalLM", {**_LLAMA, "logit_scale": 0.3}),
    "gptj": (
        "GPTJForCausalLM",
        {"vocab_size": 97, "n_positions": 83, "n_embd": 36, "n_layer": 2, "n_head": 3, "rotary_dim": 8, "n_inner": 50},
    ),
    "opt": (
        "OPTForCausalLM",
        {"vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "ffn_dim": 50}
        | {"max_position_embeddings": 83, "dropout": 0.0},
    ),
    "gemma": ("GemmaForCausalLM", {**_LLAMA, "head_dim": 14}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**_LLAMA, "head_dim": 14, "sliding_window": 8, "query_pre_attn_scalar": 11}
        | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**_LLAMA, "head_dim": 14, "sliding_window": 8, "query_pre_attn_scalar": 11, "sliding_window_pattern": 2}
        | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "llama linear": ("LlamaForCausalLM", {**_LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 2.5}}),
    "llama yarn": ("LlamaForCausalLM", {**_LLAMA, "rope_parameters": _YARN}),
    "llama dynamic": (
        "LlamaForCausalLM",
        {**_LLAMA, "rope_parameters": {"rope_type": "dynamic", "factor": 2.5}, "max_position_embeddings": 24},
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 97, "dim": 36, "n_layers": 3, "n_heads": 3, "hidden_dim": 52, "max_position_embeddings": 53},
    ),
    "distilbert without head": (
        "DistilBertModel",
        {"vocab_size": 97, "dim": 36, "n_layers": 2, "n_heads": 3, "hidden_dim": 52, "max_position_embeddings": 53},
    ),
    "electra": ("ElectraForMaskedLM", {**_BERT, "embedding_size": 22}),
    "electra wide": ("ElectraForMaskedLM", {**_BERT, "embedding_size": 36}),
    "electra without head": ("ElectraModel", {**_BERT, "embedding_size": 22}),
    "albert": ("AlbertForMaskedLM", {**_BERT, "embedding_size": 22}),
}
ORDINARY = (  # with all that the stack has, each once; the others are measured by the documented command
    *("gpt2", "llama 3.1", "llama biases", "qwen3", "bert", "bert without head", "roberta", "modernbert", "t5 1.1"),
    *("umt5", "mistral", "smollm3", "pythia", "phi3", "olmo3", "cohere", "gemma2", "albert"),
)


def peer(name: str, seed: int = 0, spread: float = 1.5) -> transformers.PreTrainedModel:
    """The model `name` in float32. Every weight is random, so that no bias or norm is left untested at 0 or 1; kernels
    have the standard deviation `spread * fan_in ** -0.5`."""
    kind, settings = PEERS[name]
    architecture = getattr(transformers, kind)
    token_ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1 if "roberta" in name else 0}
    config = architecture.config_class(**{**token_ids, **settings})
    torch.manual_seed(seed)
    model = architecture(config).eval()
    if name in ("t5 1.1", "ul2", "mt5", "umt5"):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, spread * parameter.shape[-1] ** -0.5)
    return model


def ours(model: transformers.PreTrainedModel) -> tuple[Model, Names, models.Params]:
    """A peer in our terms, without files between."""
    state = {name: array.numpy() for name, array in model.state_dict().items()}
    tensors = {name: Tensor(a.shape, a.dtype, lambda a=a: a) for name, a in state.items()}
    config, names = config_json.read(model.config.to_dict() | {"architectures": [type(model).__name__]}, tensors)
    return config, names, mapping.load_params(config, names, tensors)


def batch(name: str, vocabulary: int, rows: int = 2, seed: int = 0) -> Batch:
    """Random tokens, none of them padding, in the visibility that the peer has."""
    random = np.random.default_rng(seed)

    def side(length: int, causal: bool, source: Batch | None = None) -> Batch:
        tokens = random.integers(3, vocabulary, (rows, length)).astype(np.int32)
        targets = random.integers(3, vocabulary, (rows, length)).astype(np.int32)
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        levels = positions if causal else np.zeros_like(positions)
        return Batch(
            tokens, targets, np.ones(tokens.shape, np.float32), positions, np.ones_like(tokens), levels, source
        )

    source = side(LENGTH, causal=False) if has_source(name) else None
    return side(LENGTH - 6, causal=not is_masked(name), source=source)


def is_masked(name: str) -> bool:
    """Whether a peer is an encoder."""
    return "bert" in name or name.startswith("electra")


def has_source(name: str) -> bool:
    """Whether a peer is an encoder-decoder."""
    return "t5" in name or name == "ul2"


def outputs(model: transformers.PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The peer's logits (its features, if it has no head)."""
    tokens = torch.tensor(batch.tokens, dtype=torch.long)
    if batch.source is None:
        out = model(input_ids=tokens)
    else:
        out = model(input_ids=torch.tensor(batch.source.tokens, dtype=torch.long), decoder_input_ids=tokens)
    return out.logits if "logits" in out else out.last_hidden_state


def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy of the targets."""
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(batch.targets, dtype=torch.long).flatten(), reduction="none"
    )
    weights = torch.tensor(batch.weights).flatten()
    return (losses * weights).sum() / weights.sum()
