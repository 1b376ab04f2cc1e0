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
}


def peer(name: str, seed: int = 0, spread: float = 1.5) -> transformers.PreTrainedModel:
    """The model `name` in float32. Every weight is random, so that no bias or norm is left untested at 0 or 1; kernels
    have the standard deviation `spread * fan_in ** -0.5`."""
    kind, settings = PEERS[name]
    architecture = getattr(transformers, kind)
    token_ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1 if "roberta" in name else 0}
    config = architecture.config_class(**{**token_ids, **settings})
    torch.manual_seed(seed)
    model = architecture(config).eval()
    if name == "t5 1.1":
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
    return config, names, mapping.load(config, names, tensors)


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

    source = side(LENGTH, causal=False) if name.startswith("t5") else None
    return side(LENGTH - 6, causal="bert" not in name, source=source)


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
