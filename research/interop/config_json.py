"""`config.json` read strictly, and written: by the tables of `families`.

A family fits a model when writing the model's `config.json` and reading it again gives the same model: that is how the
family of an export is found, and why nothing that a config cannot say is lost. Every key of a config is read, or has no
effect on the model's function, or is refused with its value; one that no family knows is named in a warning.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

from research.config import Model, field_paths, get_field, replace_fields, resolve
from research.errors import InputError
from research.interop import mapping
from research.interop.families import FAMILIES, Config, Family, activation, rotary, their_activation
from research.interop.mapping import Tensor
from research.interop.names import Names, canonical

log = logging.getLogger(__name__)
_REQUIRED: tuple[tuple[str, Any], ...] = (  # of every family that does not say otherwise
    ("is_decoder", False),
    ("add_cross_attention", False),
    ("is_encoder_decoder", False),
    ("tie_encoder_decoder", False),
    ("cross_attention_hidden_size", None),
    ("quantization_config", None),
    ("per_layer_config", None),
    ("pruned_heads", {}),
)
WITHOUT_EFFECT = frozenset(  # on what a language model computes of ids, in any family
    (
        *("model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
        *("dtype", "torch_dtype", "use_bfloat16", "torchscript", "auto_map", "tokenizer_class", "prefix"),
        *("output_hidden_states", "output_attentions", "return_dict", "use_return_dict", "use_cache"),
        *("_attn_implementation", "attn_implementation", "_experts_implementation", "_output_attentions"),
        *("tie_last_hidden_states", "chunk_size_feed_forward", "gradient_checkpointing", "finetuning_task"),
        *("id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),  # of other tasks
        *("classifier_dropout", "qa_dropout", "seq_classif_dropout", "hidden_dropout_classifier"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "summary_last_dropout", "pooler_hidden_size", "pooler_hidden_act"),
        *("initializer_range", "init_std", "initializer_factor", "transformers.js_config", "model_max_length"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"),
        *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"),  # of generation
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature"),
        *("top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "diversity_penalty", "bad_words_ids"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores"),
        *("return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty"),
        *("begin_suppress_tokens", "cache_implementation", "tf_legacy_loss"),
    )
)
# not of the model's function
_TRAINING = (
    *("dropout", "attention.dropout", "initial_scale", "embedding.initial_scale"),
    *("attention.implementation", "unroll", "remat"),
)


def read(config: Config, tensors: Mapping[str, Tensor] | None = None) -> tuple[Model, Names]:
    """The resolved model that a `config.json` describes, and how its tensors are called. `tensors` are the names in its
    files: T5's config does not tell whether the output layer is tied, nor BERT's whether there is a head.

    Raises:
      InputError: if the family is unknown, or the model has a feature that the stack does not have; named.
    """
    model_type, architectures = config.get("model_type"), config.get("architectures") or ()
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(architectures, list | tuple):
        raise InputError(f"architectures is {architectures!r}, not a list")
    if family is None:
        known = ", ".join(FAMILIES)
        raise InputError(f"model_type {config.get('model_type')!r} is not supported; these are: {known}")
    config = _known(family, config)
    given: dict[str, Any] = {}
    for ours, theirs, default in family.fields:
        value = config.get(theirs)
        given.setdefault(ours, default if value is None else _checked(ours, theirs, value, default))
    config = {theirs: default for _, theirs, default in family.fields} | {
        key: value for key, value in config.items() if value is not None
    }
    if "mlp.activation" in given:
        given["mlp.activation"] = activation(given["mlp.activation"])
    try:
        model = replace_fields(family.base, given | family.read(config))
        _check_kinds(model)
        if tensors is not None:
            mapping.check_sizes(model, tensors)
        if tensors is not None and model.encoder_depth:
            model = replace_fields(model, {"head.tied": mapping.tied(tensors, "shared.weight", "lm_head.weight")})
        if _headless(family, family.names(model), architectures, tensors):
            model = replace_fields(model, {"head.transform": False, "head.bias": False})
        return resolve(model, model.vocabulary, 0), family.names(model)
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a value of the {model_type} config is missing or of another kind: {error!r}") from error


def _known(family: Family, config: Config) -> Config:
    """The config with the names that the tables have; warns of keys that are not known. Raises InputError if a value is
    one that the stack cannot express."""
    config = dict(config)
    for alias, key in family.aliases:
        value = config.pop(alias, None)
        if value is not None and config.setdefault(key, value) != value:
            raise InputError(f"{alias} is {value!r}, but {key}, which is the same, {config[key]!r}")
    for key, value in ({**dict(_REQUIRED), **dict(family.requires)}).items():
        given = config.get(key)
        if key in config and given != value and not (given is None and not value):
            raise InputError(f"{family.model_type} with {key} = {given!r} is not supported, only {value!r}")
    known = WITHOUT_EFFECT.union(family.reads, family.without_effect, dict(_REQUIRED), dict(family.requires))
    unknown = [str(key) for key in config if key not in known and not any(key == row[1] for row in family.fields)]
    if unknown:
        log.warning("config.json: %s: not of transformers' %s, so not read", ", ".join(unknown), family.model_type)
    return config


def _headless(family: Family, names: Names, architectures: Any, tensors: Mapping[str, Tensor] | None) -> bool:
    """Whether a model whose family has a head beside the output layer lacks it, which is said."""
    if family.headless is None or family.architecture in architectures:
        return False
    if tensors is None:
        return family.headless in architectures
    head = {f"{names.modules['head_transform']}.weight"}
    if any(canonical(names, name, head) in head for name in tensors):
        return False
    log.warning(
        "the files hold no head (%s): the model gives hidden states for analysis, but no predictions of tokens",
        names.modules["head_transform"],
    )
    return True


def _check_kinds(model: Model) -> None:
    """Raises InputError if a number or a flag of a model is none."""
    default = Model()
    for path in field_paths(Model):
        kind, value = type(get_field(default, path)), get_field(model, path)
        if kind in (bool, int) and type(value) is not kind:
            raise InputError(f"the value that decides model.{path} is {value!r}, not of type {kind.__name__}")


def _checked(ours: str, key: str, value: Any, default: Any) -> Any:
    """A value that is of the kind of its default. Raises InputError if it is not, or is out of any range."""
    least = 1 if ours in ("vocabulary", "width", "depth", "attention.heads", "embedding.token_types") else 0
    match default:
        case bool() | str():
            right = type(value) is type(default)
        case int():
            right = type(value) is int and least <= value < 1 << 31
        case float():
            right = type(value) in (int, float) and math.isfinite(value) and value >= 0
        case _:
            raise TypeError(default)
    if not right:
        kind = {bool: "true or false", str: "a text", int: f"a number of at least {least}"}.get(
            type(default), "a finite number"
        )
        raise InputError(f"{key} is {str(value)[:60]!r}, not {kind}")
    return value


def write(model: Model) -> tuple[Config, Names]:
    """The `config.json` of a resolved model in the first family that it fits.

    Raises:
      InputError: if it fits none; it names the nearest family and what differs.
    """
    nearest: tuple[int, str, list[str]] | None = None
    for model_type in FAMILIES:
        config = _written(FAMILIES[model_type], model)
        try:
            again, tensor_names = read(config)
        except InputError:  # a value that this family cannot have
            continue
        wanted, got = _essence(model), _essence(again)
        differs = [path for path in field_paths(Model) if get_field(wanted, path) != get_field(got, path)]
        if not differs:
            return config, tensor_names
        told = [f"{path} is {get_field(wanted, path)!r}, there {get_field(got, path)!r}" for path in differs]
        if nearest is None or len(told) < nearest[0]:
            nearest = len(told), model_type, told
    assert nearest is not None
    raise InputError(f"transformers has no such model; {nearest[1]} is nearest, but {'; '.join(nearest[2])}")


def _written(family: Family, model: Model) -> Config:
    values = {theirs: get_field(model, ours) for ours, theirs, _ in family.fields}
    for ours, theirs, _ in family.fields:
        if ours == "mlp.activation":
            values[theirs] = their_activation(model.mlp.activation)
    headless = family.headless is not None and not model.head.transform
    architecture = family.headless if headless else family.architecture
    head: Config = {"model_type": family.model_type, "architectures": [architecture]}
    head |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return head | values | dict(family.requires) | family.write(model)


def _essence(model: Model) -> Model:
    """The model without what has no effect on its function."""
    positions, attention = model.positions, model.attention
    kinds = rotary.layer_types(model.depth, attention.global_every, attention.first_global)
    every, first = rotary.pattern(kinds, model.depth)
    model = replace_fields(model, {"attention.global_every": every, "attention.first_global": first})
    rope, windows = positions.kind == "rope", attention.window > 0 and every != 1
    without = list(_TRAINING)
    without += [] if rope else ["positions.theta", "positions.scaling", "positions.rotary_width"]
    without += [] if positions.kind == "relative" else ["positions.buckets", "positions.max_distance"]
    without += [] if windows and rope else ["positions.local_theta"]
    without += [] if windows and rope and positions.scaling else ["positions.local_scaling"]
    without += [] if windows else ["attention.window", "attention.global_every", "attention.first_global"]
    without += [] if rope or positions.kind == "learned" else ["positions.max_length"]
    without += [] if attention.qk_norm else ["attention.qk_norm_joint"]
    return replace_fields(model, {path: get_field(Model(), path) for path in without})
