"""The families of `transformers`: their `config.json` and our `config.Model`, as data.

A family fits a model when writing the model's `config.json` and reading it again gives the same model: that is how the
family of an export is found, and why nothing that a config cannot say is lost.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from research.config import (
    MLP,
    Attention,
    Embedding,
    Model,
    Norm,
    Positions,
    RopeScaling,
    field_paths,
    get_field,
    replace_fields,
    resolve,
)
from research.errors import InputError
from research.interop import names
from research.interop.names import Names

Config = dict[str, Any]
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_THEIRS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
_EVERYWHERE = (("is_decoder", False), ("add_cross_attention", False), ("quantization_config", None))
# not of the model's function
_TRAINING = (
    *("dropout", "attention.dropout", "initial_scale", "embedding.initial_scale"),
    *("attention.implementation", "unroll", "remat"),
)


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    architecture: str  # the class of the language model
    base: Model  # what its models have in common
    fields: tuple[tuple[str, str, Any], ...]  # (our field, their key, its value where it is missing)
    read: Callable[[Config], dict[str, Any]]  # what needs more than a table
    write: Callable[[Model], Config]
    names: Callable[[Model], Names]
    requires: tuple[tuple[str, Any], ...] = ()  # (key, the one value that the stack can express)
    headless: str | None = None  # the class of the model without its head, where it is useful


def read(config: Config, tensors: Collection[str] | None = None) -> tuple[Model, Names]:
    """The resolved model that a `config.json` describes, and how its tensors are called. `tensors` are the names in its
    files: T5's config does not tell whether the output layer is tied.

    Raises:
      InputError: if the family is unknown, or the model has a feature that the stack does not have; named.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None:
        known = ", ".join(FAMILIES)
        raise InputError(f"model_type {config.get('model_type')!r} is not supported; these are: {known}")
    for key, value in (*family.requires, *_EVERYWHERE):
        if key in config and config[key] != value:
            raise InputError(f"{config['model_type']} with {key} = {config[key]!r} is not supported, only {value!r}")
    given: dict[str, Any] = {}
    for ours, theirs, default in family.fields:
        value = config.get(theirs, default)
        given.setdefault(ours, default if value is None else value)
    if "mlp.activation" in given:
        given["mlp.activation"] = _activation(given["mlp.activation"])
    model = replace_fields(family.base, given | family.read(config))
    if tensors is not None and model.encoder_depth:
        untied = "lm_head.weight" in tensors and model.head.logits_scale == 1
        model = replace_fields(model, {"head.tied": not untied})
    if family.headless in (config.get("architectures") or ()):
        model = replace_fields(model, {"head.transform": False, "head.bias": False})
    return resolve(model, model.vocabulary, 0), family.names(model)


def write(model: Model) -> tuple[Config, Names]:
    """The `config.json` of a resolved model in the first family that it fits.

    Raises:
      InputError: if it fits none; it names the nearest family and what differs.
    """
    nearest: tuple[int, str, list[str]] | None = None
    for model_type in FAMILIES:
        config = _written(model_type, model)
        again, tensor_names = read(config)
        wanted, got = _essence(model), _essence(again)
        differs = [path for path in field_paths(Model) if get_field(wanted, path) != get_field(got, path)]
        if not differs:
            return config, tensor_names
        told = [f"{path} is {get_field(wanted, path)!r}, there {get_field(got, path)!r}" for path in differs]
        if nearest is None or len(told) < nearest[0]:
            nearest = len(told), model_type, told
    assert nearest is not None
    raise InputError(f"transformers has no such model; {nearest[1]} is nearest, but {'; '.join(nearest[2])}")


def _written(model_type: str, model: Model) -> Config:
    family = FAMILIES[model_type]
    values = {theirs: get_field(model, ours) for ours, theirs, _ in family.fields}
    for ours, theirs, _ in family.fields:
        if ours == "mlp.activation":
            values[theirs] = _THEIRS[model.mlp.activation]
    headless = family.headless is not None and not model.head.transform
    architecture = family.headless if headless else family.architecture
    head: Config = {"model_type": model_type, "architectures": [architecture]}
    head |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return head | values | dict(family.requires) | family.write(model)


def _essence(model: Model) -> Model:
    """The model without what has no effect on its function."""
    positions, windows = model.positions.kind, model.attention.window > 0
    without = list(_TRAINING)
    without += [] if positions == "rope" else ["positions.theta", "positions.scaling"]
    without += [] if positions == "relative" else ["positions.buckets", "positions.max_distance"]
    without += [] if windows and positions == "rope" else ["positions.local_theta"]
    without += [] if windows else ["attention.global_every"]
    without += [] if positions in ("rope", "learned") else ["positions.max_length"]
    return replace_fields(model, {path: get_field(Model(), path) for path in without})


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise InputError(f"the activation {name!r} is not supported; these are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _read_rope(config: Config) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both since version 5 of transformers."""
    given = config.get("rope_parameters") or {**(config.get("rope_scaling") or {})}
    theta = given.get("rope_theta") or config.get("rope_theta") or 10_000.0
    if config.get("partial_rotary_factor", given.get("partial_rotary_factor", 1.0)) != 1.0:
        raise InputError("partial_rotary_factor: rotating only a part of each head is not supported")
    kind = given.get("rope_type", given.get("type", "default"))
    match kind:
        case "default":
            scaling = None
        case "linear":
            scaling = RopeScaling("linear", given["factor"])
        case "llama3":
            scaling = RopeScaling(
                "llama3",
                given["factor"],
                given["low_freq_factor"],
                given["high_freq_factor"],
                given["original_max_position_embeddings"],
            )
        case _:
            raise InputError(f"rope_scaling of type {kind!r} is not supported; default, linear and llama3 are")
    return {"positions.theta": float(theta), "positions.scaling": scaling}


def _write_rope(model: Model) -> Config:
    scaling, written = model.positions.scaling, None
    if scaling is not None:
        written = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        assert written is not None
        written |= {
            "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency,
            "original_max_position_embeddings": scaling.original_length,
        }
    return {"rope_theta": model.positions.theta, "rope_scaling": written}


def _read_llama(config: Config) -> dict[str, Any]:
    bias = config.get("attention_bias", False)
    if "sliding_attention" in (config.get("layer_types") or ()):
        raise InputError("layer_types: sliding_attention is not supported in this family")
    return {**_read_rope(config), "attention.qkv_bias": bias, "attention.output_bias": bias}


def _write_llama(model: Model) -> Config:
    return {**_write_rope(model), "attention_bias": model.attention.output_bias}


def _read_modernbert(config: Config) -> dict[str, Any]:
    if config.get("classifier_bias", False) != config.get("mlp_bias", False):
        raise InputError("modernbert with classifier_bias unlike mlp_bias is not supported")
    if config.get("classifier_activation", "gelu") != config.get("hidden_activation", "gelu"):
        raise InputError("modernbert with classifier_activation unlike hidden_activation is not supported")
    every, kinds = config.get("global_attn_every_n_layers", 3), config.get("layer_types")
    if kinds is not None:
        every = kinds.index("full_attention", 1) if "full_attention" in kinds[1:] else len(kinds)
        if kinds != _layer_types(every, len(kinds)):
            raise InputError(f"layer_types: full attention is supported in every n-th layer, not in {kinds}")
    rotary = config.get("rope_parameters") or {}
    far, near = (rotary.get(kind) or {} for kind in ("full_attention", "sliding_attention"))
    if any(one.get("rope_type", "default") != "default" for one in (far, near)):
        raise InputError("modernbert with scaled rotary positions is not supported")
    bias = config.get("attention_bias", False)
    return {
        "attention.window": config.get("local_attention", 128) // 2,
        "attention.global_every": every,
        "positions.theta": float(far.get("rope_theta") or config.get("global_rope_theta") or 160_000.0),
        "positions.local_theta": float(near.get("rope_theta") or config.get("local_rope_theta") or 10_000.0),
        "attention.qkv_bias": bias,
        "attention.output_bias": bias,
    }


def _write_modernbert(model: Model) -> Config:
    far, near = (
        {"rope_type": "default", "rope_theta": t} for t in (model.positions.theta, model.positions.local_theta)
    )
    return {
        "local_attention": 2 * model.attention.window,
        "global_attn_every_n_layers": model.attention.global_every,
        "layer_types": _layer_types(model.attention.global_every, model.depth),
        "global_rope_theta": model.positions.theta,
        "local_rope_theta": model.positions.local_theta,
        "rope_parameters": {"full_attention": far, "sliding_attention": near},
        "attention_bias": model.attention.output_bias,
        "classifier_bias": model.mlp.bias,
        "classifier_activation": _THEIRS[model.mlp.activation],
        "cls_token_id": None,
        "sep_token_id": None,
    }


def _layer_types(every: int, depth: int) -> list[str]:
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(depth)]


def _read_t5(config: Config) -> dict[str, Any]:
    kind = config.get("feed_forward_proj", "relu")
    gated, activation = kind.startswith("gated-"), kind.removeprefix("gated-")
    # version 1.0 scales what goes into its tied output layer; a missing flag means that version
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    return {
        "mlp.gated": gated,
        "mlp.activation": "gelu_tanh" if kind == "gated-gelu" else _activation(activation),
        "depth": config.get("num_decoder_layers") or config.get("num_layers", 6),
        "head.tied": config.get("tie_word_embeddings") is not False,
        "head.logits_scale": config.get("d_model", 512) ** -0.5 if scaled else 1.0,
    }


def _write_t5(model: Model) -> Config:
    activation = "gelu" if model.mlp.gated and model.mlp.activation == "gelu_tanh" else _THEIRS[model.mlp.activation]
    return {
        "feed_forward_proj": f"gated-{activation}" if model.mlp.gated else activation,
        "num_decoder_layers": model.depth,
        "tie_word_embeddings": model.head.tied,
        "scale_decoder_outputs": model.head.logits_scale != 1,
        "is_encoder_decoder": True,
    }


_LAYERNORM = Model(norm=Norm(kind="layernorm", epsilon=1e-5, bias=True), mlp=MLP(gated=False))
_BIASED = replace_fields(
    _LAYERNORM,
    {"positions.kind": "learned", "attention.qkv_bias": True, "attention.output_bias": True, "mlp.bias": True},
)
_BERT = replace_fields(
    _BIASED, {"norm.placement": "post", "norm.embedding": True, "head.bias": True, "head.transform": True}
)

_LLAMA_FIELDS = (
    ("vocabulary", "vocab_size", 32_000),
    ("width", "hidden_size", 4096),
    ("mlp.width", "intermediate_size", 11_008),
    ("depth", "num_hidden_layers", 32),
    ("attention.heads", "num_attention_heads", 32),
    ("attention.kv_heads", "num_key_value_heads", 0),
    ("attention.head_width", "head_dim", 0),
    ("mlp.activation", "hidden_act", "silu"),
    ("positions.max_length", "max_position_embeddings", 2048),
    ("norm.epsilon", "rms_norm_eps", 1e-6),
    ("head.tied", "tie_word_embeddings", False),
)
_QWEN_REQUIRES = (("use_sliding_window", False),)
_BERT_FIELDS = (
    ("vocabulary", "vocab_size", 30_522),
    ("width", "hidden_size", 768),
    ("depth", "num_hidden_layers", 12),
    ("attention.heads", "num_attention_heads", 12),
    ("mlp.width", "intermediate_size", 3072),
    ("mlp.activation", "hidden_act", "gelu"),
    ("dropout", "hidden_dropout_prob", 0.1),
    ("attention.dropout", "attention_probs_dropout_prob", 0.1),
    ("positions.max_length", "max_position_embeddings", 512),
    ("embedding.token_types", "type_vocab_size", 2),
    ("norm.epsilon", "layer_norm_eps", 1e-12),
    ("head.tied", "tie_word_embeddings", True),
)

FAMILIES = {
    "gpt2": Family(
        architecture="GPT2LMHeadModel",
        base=_BIASED,
        fields=(
            ("vocabulary", "vocab_size", 50_257),
            ("positions.max_length", "n_positions", 1024),
            ("width", "n_embd", 768),
            ("depth", "n_layer", 12),
            ("attention.heads", "n_head", 12),
            ("mlp.width", "n_inner", 0),
            ("mlp.activation", "activation_function", "gelu_new"),
            ("dropout", "resid_pdrop", 0.1),
            ("dropout", "embd_pdrop", 0.1),
            ("attention.dropout", "attn_pdrop", 0.1),
            ("norm.epsilon", "layer_norm_epsilon", 1e-5),
            ("head.tied", "tie_word_embeddings", True),
        ),
        read=lambda config: {},
        write=lambda model: {},
        names=lambda model: names.GPT2,
        requires=(("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)),
    ),
    "llama": Family(
        architecture="LlamaForCausalLM",
        base=Model(),
        fields=(*_LLAMA_FIELDS, ("mlp_bias", "mlp_bias", False)),
        read=_read_llama,
        write=_write_llama,
        names=lambda model: names.LLAMA,
    ),
    "qwen2": Family(
        architecture="Qwen2ForCausalLM",
        base=Model(attention=Attention(qkv_bias=True)),
        fields=_LLAMA_FIELDS,
        read=lambda config: {**_read_llama(config), "attention.qkv_bias": True, "attention.output_bias": False},
        write=_write_rope,
        names=lambda model: names.LLAMA,
        requires=_QWEN_REQUIRES,
    ),
    "qwen3": Family(
        architecture="Qwen3ForCausalLM",
        base=Model(attention=Attention(qk_norm=True)),
        fields=tuple((*row[:2], 128) if row[0] == "attention.head_width" else row for row in _LLAMA_FIELDS),
        read=_read_llama,
        write=_write_llama,
        names=lambda model: names.LLAMA,
        requires=_QWEN_REQUIRES,
    ),
    "bert": Family(
        architecture="BertForMaskedLM",
        base=_BERT,
        fields=_BERT_FIELDS,
        read=lambda config: {},
        write=lambda model: {},
        names=lambda model: names.BERT,
        requires=(("position_embedding_type", "absolute"),),
        headless="BertModel",
    ),
    "roberta": Family(
        architecture="RobertaForMaskedLM",
        base=_BERT,
        fields=_BERT_FIELDS,
        read=lambda config: {"positions.offset": config.get("pad_token_id", 1) + 1},
        write=lambda model: {"pad_token_id": model.positions.offset - 1},
        names=lambda model: names.ROBERTA,
        requires=(("position_embedding_type", "absolute"),),
        headless="RobertaModel",
    ),
    "modernbert": Family(
        architecture="ModernBertForMaskedLM",
        base=replace_fields(
            _LAYERNORM,
            {
                "positions.kind": "rope",
                "mlp.gated": True,
                "norm.bias": False,
                "norm.embedding": True,
                "norm.first": False,
                "head.transform": True,
            },
        ),
        fields=(
            ("vocabulary", "vocab_size", 50_368),
            ("width", "hidden_size", 768),
            ("mlp.width", "intermediate_size", 1152),
            ("depth", "num_hidden_layers", 22),
            ("attention.heads", "num_attention_heads", 12),
            ("mlp.activation", "hidden_activation", "gelu"),
            ("positions.max_length", "max_position_embeddings", 8192),
            ("norm.epsilon", "norm_eps", 1e-5),
            ("norm.bias", "norm_bias", False),
            ("mlp.bias", "mlp_bias", False),
            ("dropout", "mlp_dropout", 0.0),
            ("attention.dropout", "attention_dropout", 0.0),
            ("dropout", "embedding_dropout", 0.0),
            ("head.bias", "decoder_bias", True),
            ("head.tied", "tie_word_embeddings", True),
        ),
        read=_read_modernbert,
        write=_write_modernbert,
        names=lambda model: names.MODERNBERT,
    ),
    "t5": Family(
        architecture="T5ForConditionalGeneration",
        base=Model(
            initial_scale=None,
            positions=Positions(kind="relative"),
            attention=Attention(scale=1.0),
            embedding=Embedding(initial_scale=1.0),
        ),
        fields=(
            ("vocabulary", "vocab_size", 32_128),
            ("width", "d_model", 512),
            ("attention.head_width", "d_kv", 64),
            ("mlp.width", "d_ff", 2048),
            ("encoder_depth", "num_layers", 6),
            ("attention.heads", "num_heads", 8),
            ("positions.buckets", "relative_attention_num_buckets", 32),
            ("positions.max_distance", "relative_attention_max_distance", 128),
            ("dropout", "dropout_rate", 0.1),
            ("attention.dropout", "dropout_rate", 0.1),
            ("norm.epsilon", "layer_norm_epsilon", 1e-6),
        ),
        read=_read_t5,
        write=_write_t5,
        names=lambda model: names.t5(model.mlp.gated),
    ),
}
