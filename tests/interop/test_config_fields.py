"""Every field of every supported family's config class is supported, refused by its name, or proven without effect."""

import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from research.errors import InputError  # noqa: E402
from research.interop import config_json  # noqa: E402
from research.interop.families import FAMILIES, activation  # noqa: E402
from tests.interop import peers  # noqa: E402

PEERS = {  # one for each family
    **{"gpt2": "gpt2", "llama": "llama 3.1", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"},
    **{"smollm3": "smollm3", "phi3": "phi3", "olmo2": "olmo2", "olmo3": "olmo3", "gemma": "gemma", "gemma2": "gemma2"},
    **{"gemma3_text": "gemma3", "stablelm": "stablelm", "cohere": "cohere", "gpt_neox": "pythia", "gptj": "gptj"},
    **{"opt": "opt", "bert": "bert", "roberta": "roberta", "distilbert": "distilbert", "electra": "electra"},
    **{"albert": "albert", "modernbert": "modernbert", "t5": "t5 1.0", "mt5": "mt5", "umt5": "umt5"},
}
OTHERS: dict[str, Any] = {  # where another value does not follow from the one that is there
    "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "architectures": ["Other"],
    "feed_forward_proj": "gated-silu",
    "no_rope_layers": [1, 1, 0],
    "summary_activation": "tanh",
    "transformers_version": "4.0.0",
    "classifier_pooling": "mean",
    "pad_token_id": 4,
    "chunk_size_feed_forward": 1,
}


def test_every_family_has_a_peer():
    assert PEERS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_field_is_supported_or_refused_or_without_effect(model_type):
    peer = peers.peer(PEERS[model_type])
    config = peer.config.to_dict() | {"architectures": [type(peer).__name__]}
    model, _ = config_json.read(config)
    harmless: dict[str, Any] = {}
    for field in dataclasses.fields(type(peer.config)):
        if field.name in ("dtype", "return_dict"):  # of the numbers in the file, which say it; of the form of a result
            continue
        value = other(field.name, config.get(field.name))
        try:
            changed, _ = config_json.read(config | {field.name: value})
        except InputError as error:
            assert field.name.replace("rope_parameters", "rope_") in str(error), (field.name, str(error))
        else:
            harmless |= {field.name: value} if changed == model else {}
    family = FAMILIES[model_type]
    rows = {key for _, key, _ in family.fields}
    assert set(harmless) <= config_json.WITHOUT_EFFECT.union(family.without_effect, family.reads, rows)
    again = type(peer)(type(peer.config).from_dict(config | harmless)).eval()
    if model_type in ("mt5", "umt5"):  # the class ties its output layer, the peer does not
        again.lm_head.weight = torch.nn.Parameter(torch.empty_like(again.lm_head.weight))
    again.load_state_dict(peer.state_dict())
    batch = peers.batch(PEERS[model_type], model.vocabulary)
    with torch.no_grad():
        before, after = (first(one, batch) for one in (peer, again))
    np.testing.assert_allclose(after, before, atol=1e-6 * np.abs(before).max(), err_msg=str(harmless))


def other(name: str, value: Any) -> Any:
    """A value that a field does not have."""
    if name == "rope_parameters" and isinstance(value, dict) and "full_attention" in value:
        return value | {"full_attention": OTHERS[name]}
    if name in OTHERS:
        return OTHERS[name]
    match value:
        case bool():
            return not value
        case int():
            return value + 2
        case float():
            return 2 * value + 0.25
        case str():
            return "relu" if value != "relu" and is_activation(value) else "silu" if value == "relu" else "other"
    return 5


def is_activation(name: str) -> bool:
    try:
        activation(name)
    except InputError:
        return False
    return True


def first(model: Any, batch: Any) -> np.ndarray:
    """The first of what a model puts out, whatever form it has."""
    tokens = torch.tensor(batch.tokens, dtype=torch.long)
    if batch.source is None:
        return model(input_ids=tokens)[0].numpy()
    return model(input_ids=torch.tensor(batch.source.tokens, dtype=torch.long), decoder_input_ids=tokens)[0].numpy()


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
@pytest.mark.parametrize("beside", [{}, {"original_max_position_embeddings": 32}])
@pytest.mark.parametrize("within", [{}, {"original_max_position_embeddings": 16}])
def test_the_original_length_of_a_scaling_is_found_where_transformers_finds_it(kind, beside, within):
    """Beside the scaling it counts before the one within, and without any it is that of all positions."""
    scaling = {"rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **within}
    config = {"max_position_embeddings": 128, "rope_scaling": scaling, **beside}
    model, _ = config_json.read({"model_type": "llama", **config})
    theirs = transformers.LlamaConfig(**config)
    theirs.standardize_rope_params()  # as a model does that is made of it
    assert model.positions.scaling.original_length == theirs.rope_parameters["original_max_position_embeddings"]
