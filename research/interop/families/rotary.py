"""Rotary positions and sliding windows, which many families' configs describe with the same keys."""

import math
from typing import Any

from research.config import Model, RopeScaling
from research.errors import InputError
from research.interop.families.family import Config, positive

KEYS = (
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
    "original_max_position_embeddings",  # of some kinds of scaling
)
LAYER_KEYS = ("sliding_window", "layer_types")
SLIDING, FULL = "sliding_attention", "full_attention"


def read(config: Config, theta: float = 10_000.0, share: float | None = None) -> dict[str, Any]:
    """`rope_theta`, `partial_rotary_factor` and `rope_scaling`, or `rope_parameters`, which holds all three since
    version 5 of transformers. `theta` and `share` are what the family has where they are missing; without a `share`,
    the heads of the family rotate whole."""
    given = dict(parameters(config))
    for key, default in (("rope_theta", theta), ("partial_rotary_factor", share or 1.0)):
        if given.get(key) is None:
            given[key] = default if config.get(key) is None else config[key]
    if type(given["rope_theta"]) not in (int, float) or not 0 < given["rope_theta"] < math.inf:
        raise InputError(f"rope_theta is {given['rope_theta']!r}, not a positive number")
    read = {"positions.theta": float(given["rope_theta"]), "positions.scaling": scaling(given, config)}
    if share is None and given["partial_rotary_factor"] != 1:
        raise InputError("partial_rotary_factor: rotating only a part of each head is not supported in this family")
    if given["partial_rotary_factor"] != 1:
        read["positions.rotary_width"] = _rotary_width(config, positive(given, "partial_rotary_factor"))
    return read


def read_uniform(config: Config, theta: float = 10_000.0, share: float | None = None) -> dict[str, Any]:
    """As `read`, of a family whose layers are all alike. Raises InputError if `layer_types` says that they are not."""
    if SLIDING in (config.get("layer_types") or ()):
        raise InputError(f"layer_types: {SLIDING} is not supported in this family")
    return read(config, theta, share)


def parameters(config: Config) -> Config:
    """`rope_parameters`, or `rope_scaling`, which had its place before version 5 of transformers; both: the latter."""
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise InputError(f"rope_scaling is {given!r}, not an object")
    return given


def _rotary_width(config: Config, share: float) -> int:
    heads = config.get("num_attention_heads") or config["n_head"]
    width = int((config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads) * share)
    if share > 1 or width < 2 or width % 2:
        raise InputError(
            f"partial_rotary_factor = {share} rotates {width} features of a head, not an even number of them"
        )
    return width


def scaling(given: Config, config: Config) -> RopeScaling | None:
    """What `rope_parameters` say, or those of one type of layers."""
    kind = given.get("rope_type") or given.get("type") or "default"
    what = f"rope_scaling of type {kind}"
    if kind in ("llama3", "yarn"):
        key = "original_max_position_embeddings"  # beside the scaling it counts before the one within, as there
        length = next((one for one in (config.get(key), given.get(key)) if one is not None), None)
        given = {**given, key: config.get("max_position_embeddings") if length is None else length}
    match kind:
        case "default":
            return None
        case "linear":
            return RopeScaling("linear", positive(given, "factor", what))
        case "dynamic":
            length = positive(config, "max_position_embeddings", what)
            return RopeScaling("dynamic", positive(given, "factor", what), original_length=length)
        case "llama3":
            keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            return RopeScaling("llama3", *(positive(given, key, what) for key in keys))
        case "yarn":
            given = {"beta_fast": 32, "beta_slow": 1} | {
                key: value for key, value in given.items() if value is not None
            }
            keys = ("factor", "beta_slow", "beta_fast", "original_max_position_embeddings")
            factor, slow, fast, original = (positive(given, key, what) for key in keys)
            truncate = given.get("truncate", True)
            if not isinstance(truncate, bool):
                raise InputError(f"{what} has truncate = {truncate!r}, not true or false")
            return RopeScaling("yarn", factor, slow, fast, original, _magnitude(given, what), truncate)
    raise InputError(f"rope_scaling of type {kind!r} is not supported; default, linear, dynamic, llama3 and yarn are")


def _magnitude(given: Config, what: str) -> float:
    """YaRN's factor on rotated queries and keys (`_compute_yarn_parameters` of transformers)."""
    if given.get("attention_factor") is not None:
        return float(positive(given, "attention_factor", what))
    grown = math.log(max(given["factor"], 1))
    if given.get("mscale") and given.get("mscale_all_dim"):
        return (0.1 * given["mscale"] * grown + 1) / (0.1 * given["mscale_all_dim"] * grown + 1)
    return 0.1 * grown + 1


def write(model: Model) -> Config:
    """As `read` reads it, in the form before version 5 of transformers, which that reads too."""
    positions, written = model.positions, _written(model.positions.scaling)
    config: Config = {"rope_theta": positions.theta, "rope_scaling": written or None}
    if positions.rotary_width != model.attention.head_width:
        width, share = model.attention.head_width, positions.rotary_width / model.attention.head_width
        # their product is rounded down: half a feature more is safe from rounding
        exact = int(width * share) == positions.rotary_width
        config["partial_rotary_factor"] = share if exact else (positions.rotary_width + 0.5) / width
    return config


def _written(scaling: RopeScaling | None) -> Config:
    if scaling is None:
        return {}
    written: Config = {"rope_type": scaling.kind, "factor": scaling.factor}
    names = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_slow", "beta_fast")}.get(scaling.kind)
    if names is not None:
        written |= {names[0]: scaling.low_frequency, names[1]: scaling.high_frequency}
        written["original_max_position_embeddings"] = scaling.original_length
    if scaling.kind == "yarn":
        written |= {"attention_factor": scaling.magnitude, "truncate": scaling.truncate}
    return written


def read_by_layer(config: Config, theta: float, local_theta: float) -> dict[str, Any]:
    """`rope_parameters` of each type of layers: those of global layers may be scaled, those of local ones are not. Old
    configs have `rope_theta`, `rope_scaling` and `rope_local_base_freq`."""
    given = config.get("rope_parameters") or {}
    far, near = (dict(given.get(kind) or {}) for kind in (FULL, SLIDING))
    far |= config.get("rope_scaling") or {}
    config = {key: value for key, value in config.items() if key != "original_max_position_embeddings"}  # of no layer
    if scaling(near, config) is not None:
        raise InputError("rope_parameters: scaled rotary positions of local layers alone are not supported")
    for one, key, default in ((far, "rope_theta", theta), (near, "rope_local_base_freq", local_theta)):
        if one.get("rope_theta") is None:
            one["rope_theta"] = default if config.get(key) is None else config[key]
    return {
        "positions.theta": float(positive(far, "rope_theta")),
        "positions.local_theta": float(positive(near, "rope_theta")),
        "positions.scaling": scaling(far, config),
        "positions.local_scaling": False,
    }


def write_by_layer(model: Model) -> Config:
    """As `read_by_layer` reads it."""
    far = {"rope_type": "default", "rope_theta": model.positions.theta} | _written(model.positions.scaling)
    near = {"rope_type": "default", "rope_theta": model.positions.local_theta}
    return {"rope_parameters": {FULL: far, SLIDING: near}}


def read_layers(config: Config, every: int, first: int) -> dict[str, Any]:
    """`sliding_window` and `layer_types`, where every `every`-th layer from `first` on is global unless it is said (0:
    none is). A query sees `sliding_window` places, its own one included."""
    depth, window = config["num_hidden_layers"], config.get("sliding_window")
    kinds = config.get("layer_types")
    every, first = pattern(kinds or layer_types(depth, every, first), depth)
    if every == 1 or (window is None and kinds is None):
        return {"attention.window": 0}
    if type(window) is not int or window < 2:
        raise InputError(f"sliding_window = {window!r} is not supported, only 2 or more places")
    return {"attention.window": window - 1, "attention.global_every": every, "attention.first_global": first}


def pattern(kinds: Any, depth: int) -> tuple[int, int]:
    """Every how many layers, and from which on, one is global: the one way to say it of a number of layers."""
    if isinstance(kinds, list) and len(kinds) == depth:
        places = [layer for layer, kind in enumerate(kinds) if kind == FULL]
        first = places[0] if places else 0
        every = 0 if not places else places[1] - first if len(places) > 1 else depth
        if kinds == layer_types(depth, every, first):
            return every, first
    raise InputError(
        f"layer_types: of num_hidden_layers = {depth} every n-th can be of {FULL}, the others of {SLIDING}; not {kinds}"
    )


def layer_types(depth: int, every: int, first: int) -> list[str]:
    """The type of each layer."""
    return [FULL if every and layer % every == first else SLIDING for layer in range(depth)]


def write_layers(model: Model) -> Config:
    """As `read_layers` reads it."""
    attention = model.attention
    kinds = layer_types(model.depth, attention.global_every, attention.first_global)
    if not attention.window:
        return {"sliding_window": None, "layer_types": [FULL] * model.depth}
    return {"sliding_window": attention.window + 1, "layer_types": kinds}
