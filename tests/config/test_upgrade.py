"""Experiments stored by earlier versions are read under the names of today."""

import json
from dataclasses import fields

import pytest

from research import config
from research.config import MLP, Attention, Embedding, Experiment, Head, Model, Norm, Positions, RopeScaling, Step
from research.config.upgrade import _MOVED, upgraded
from research.errors import InputError

# the flat form, with a value of its own for every field
OLD = {
    "model": {
        **{"vocabulary": 300, "width": 32, "depth": 3, "encoder_depth": 1, "heads": 8, "kv_heads": 2, "head_width": 6},
        **{"mlp_width": 40, "positions": "rotary", "max_positions": 50, "position_offset": 2, "rotary_theta": 11.0},
        "rotary_scaling": {"kind": "linear", "factor": 2.0},
        **{"relative_buckets": 16, "relative_distance": 64, "window": 5, "global_every": 3, "window_theta": 12.0},
        **{"norm": "layernorm", "norm_epsilon": 1e-3, "norm_bias": True, "norm_placement": "post"},
        **{"embedding_norm": True, "first_norm": False, "token_types": 2, "activation": "relu", "gated": False},
        **{"qkv_bias": True, "attention_bias": True, "mlp_bias": True, "qk_norm": True, "attention_scale": 0.5},
        **{"tied": False, "logits_scale": 0.25, "head_bias": True, "head_transform": True, "dropout": 0.1},
        **{"initial_scale": None, "embedding_scale": 0.3, "bits": 8, "unroll": 2, "remat": "full"},
        **{"attention": "plain", "lora": {"rank": 4}},
    },
    "step": {"accumulation": 2, "compute": "bfloat16"},
    "compiled": "folder",
    "seed": 7,
}
NEW = Experiment(
    model=Model(
        vocabulary=300,
        width=32,
        depth=3,
        encoder_depth=1,
        attention=Attention(8, 2, 6, 0.5, True, True, True, 5, 3, 0.1, "plain"),
        mlp=MLP(40, "relu", gated=False, bias=True),
        norm=Norm("layernorm", 1e-3, bias=True, placement="post", embedding=True, first=False),
        positions=Positions("rope", 50, 2, 11.0, 12.0, RopeScaling("linear", 2.0), 16, 64),
        embedding=Embedding(2, 0.3),
        head=Head(tied=False, bias=True, transform=True, logits_scale=0.25),
        dropout=0.1,
        initial_scale=None,
        lora=config.Lora(rank=4),
        quantization_bits=8,
        unroll=2,
        remat="full",
    ),
    step=Step(accumulation=2, compute_dtype="bfloat16"),
    compilation_cache_dir="folder",
    seed=7,
)

LATER = {  # fields that format 1 did not have
    Attention: {"qk_norm_joint", "softcap", "first_global"},
    Norm: {"shared"},
    Positions: {"rotary_width", "skip_every", "local_scaling", "per_layer"},
    Embedding: {"width", "scale"},
    Head: {"softcap"},
}


def test_every_field_of_format_1_has_its_place(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps({"experiment": OLD, "versions": {}}))
    assert config.load(tmp_path / "experiment.json") == NEW
    assert all(path in OLD or path.partition(".")[2] in OLD[path.partition(".")[0]] for path in _MOVED)
    for part in (Attention, MLP, Norm, Positions, Embedding, Head):  # so that a field left out would show above
        default, given = part(), getattr(NEW.model, part.__name__.lower())
        same = {each.name for each in fields(part) if getattr(default, each.name) == getattr(given, each.name)}
        assert same - LATER.get(part, set()) in (set(), {"kind"}), same


def test_what_is_unknown_or_wrong_is_still_named():
    with pytest.raises(InputError, match="sead"):
        config.from_dict(upgraded({"sead": 3, "model": {"heads": 2}}))
    with pytest.raises(InputError, match=r"experiment\.model"):
        config.from_dict(upgraded({"model": 3}))


def test_a_later_format_is_refused(tmp_path):
    config.save(Experiment(), tmp_path / "experiment.json")
    stored = json.loads((tmp_path / "experiment.json").read_text())
    (tmp_path / "experiment.json").write_text(json.dumps(stored | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        config.load(tmp_path / "experiment.json")
