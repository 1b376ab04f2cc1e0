"""GGUF: the numbers of the model that it was made from; nothing damaged or unknown is read."""

from dataclasses import replace

import gguf as library
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research import interop, models
from research.config import replace_fields
from research.errors import InputError
from research.interop import gguf, mapping, names
from research.models import rope

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.interop import peers  # noqa: E402

ONCE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path, architecture: str, metadata: dict, tensors: dict, quantisation=library.GGMLQuantizationType.F32):
    """A GGUF file made with the `gguf` package."""
    writer = library.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = writer.add_array if isinstance(value, list) else None
        add = (
            add
            or {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[
                type(value)
            ]
        )
        add(key, value)
    for name, array in tensors.items():
        matrix = array.ndim > 1 and quantisation != library.GGMLQuantizationType.F32
        data = library.quants.quantize(array, quantisation) if matrix else array
        writer.add_tensor(name, data, raw_dtype=quantisation if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def described(model, architecture: str) -> dict:
    """The metadata of a model."""
    sizes = {
        "embedding_length": model.width,
        "block_count": model.depth,
        "feed_forward_length": model.mlp.width,
        "context_length": model.positions.max_length,
        "attention.head_count": model.attention.heads,
        "attention.head_count_kv": model.attention.kv_heads,
        "attention.key_length": model.attention.head_width,
        "attention.value_length": model.attention.head_width,
        "attention.layer_norm_rms_epsilon": model.norm.epsilon,
        "rope.freq_base": model.positions.theta,
    }
    return {f"{architecture}.{key}": value for key, value in sizes.items()}


def as_gguf(model, params, architecture: str) -> dict[str, np.ndarray]:
    """The tensors of a model, with rotated pairs as neighbours where the architecture has them so."""
    tensors = {name: np.ascontiguousarray(array) for name, array in mapping.export(model, names.GGUF, params)}
    for name, array in tensors.items():
        if architecture == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = array.reshape(-1, 2, model.attention.head_width // 2, *array.shape[1:])
            tensors[name] = heads.swapaxes(1, 2).reshape(array.shape)
    return tensors


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("llama biases", "llama"), ("llama 3.1", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")],
)
def test_parameters_are_those_of_the_model(tmp_path, name, architecture):
    peer = peers.peer(name)
    model, _, params = peers.ours(peer)
    if name == "llama biases":  # which GGUF keeps, but does not announce
        model = replace_fields(model, {"attention.qkv_bias": False, "attention.output_bias": False, "mlp.bias": False})
        params = models.unflatten({p: a for p, a in models.flatten(params).items() if not p.endswith("/bias")})
    tensors = as_gguf(model, params, architecture)
    if model.positions.scaling is not None:
        scaling = replace(model.positions.scaling, original_length=8192)
        model = replace_fields(
            model, {"positions.theta": 5e5, "positions.local_theta": 5e5, "positions.scaling": scaling}
        )
        tensors["rope_freqs.weight"] = frequencies(model, None) / frequencies(model, model.positions.scaling)
    path = written(tmp_path / "model.gguf", architecture, described(model, architecture), tensors)
    got, found = gguf.open_file(path)
    again, table = gguf.model(got, found)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, mapping.load_params(again, table, found), params)


def frequencies(model, scaling) -> np.ndarray:
    return rope.frequencies(model.attention.head_width, model.positions.theta, scaling)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_quantisations_are_undone(tmp_path, kind):
    quantisation = library.GGMLQuantizationType[kind]
    array = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    path = written(tmp_path / "model.gguf", "llama", {}, {"matrix": array, "vector": array[0]}, quantisation)
    _, tensors = gguf.open_file(path)
    got = tensors["matrix"].read()
    assert tensors["matrix"].shape == got.shape == array.shape
    np.testing.assert_allclose(np.asarray(got, np.float32), array, atol=0.3)
    np.testing.assert_array_equal(tensors["vector"].read(), array[0])


@pytest.fixture
def small(tmp_path):
    tensors = {"a.weight": np.ones((3, 32), np.float32), "b.weight": np.ones(5, np.float32)}
    metadata = {"llama.block_count": 2, "tokens": ["a", "b"], "scores": [0.5, 1.5], "flag": True, "text": "x"}
    return written(tmp_path / "small.gguf", "llama", metadata, tensors)


def test_metadata_are_read(small):
    metadata, tensors = gguf.open_file(small)
    assert metadata["general.architecture"] == "llama" and metadata["llama.block_count"] == 2
    assert (metadata["tokens"], metadata["scores"], metadata["flag"], metadata["text"]) == (
        ["a", "b"],
        [0.5, 1.5],
        True,
        "x",
    )
    assert set(tensors) == {"a.weight", "b.weight"}


@ONCE
@given(st.data())
def test_no_truncated_file_is_read(small, data):
    whole = small.read_bytes()
    content = library.GGUFReader(small).tensors[-1]
    end = content.data_offset + content.n_bytes  # after it there is only padding
    cut = small.with_name("cut.gguf")
    cut.write_bytes(whole[: data.draw(st.integers(0, int(end) - 1))])
    with pytest.raises(InputError, match=r"cut\.gguf"):
        gguf.open_file(cut)


@ONCE
@given(st.data())
def test_a_header_may_say_anything(small, data):
    """With some bytes of the header changed it is an error at once, or what it describes can be read."""
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, 260))] = data.draw(st.sampled_from([0, 1, 2, 8, 9, 127, 255]))
    changed = small.with_name("changed.gguf")
    changed.write_bytes(content)
    try:
        _, tensors = gguf.open_file(changed)
    except InputError:
        return
    for tensor in tensors.values():
        assert tensor.read().shape == tensor.shape


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The metadata and tensors of a small model."""
    model, _, params = peers.ours(peers.peer("smollm2"))
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    return gguf.open_file(written(path, "llama", described(model, "llama"), as_gguf(model, params, "llama")))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' is not supported"),
        ({"llama.attention.head_count": None}, r"lacks llama\.attention\.head_count"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, r"lacks llama\.attention\.layer_norm_rms_epsilon"),
        ({"llama.attention.head_count_kv": [1, 2, 1]}, r"head_count_kv is \[1, 2, 1\], not one positive number"),
        ({"llama.feed_forward_length": "52"}, "feed_forward_length is 52, not one positive number"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "is nan, not one finite number"),
        ({"llama.rope.freq_base": [1.0]}, r"rope\.freq_base is \[1\.0\]"),
        ({"llama.rope.dimension_count": 4}, "rotating only a part"),
        ({"llama.attention.value_length": 4}, "value_length unlike"),
        ({"llama.expert_count": 4}, "mixtures of experts"),
        ({"llama.rope.scaling.type": "yarn"}, r"rope\.scaling\.type 'yarn'"),
        ({"llama.rope.scaling.attn_factor": 2.0}, r"attn_factor = 2\.0 is not supported, only 1\.0"),
        ({"llama.attention.sliding_window": 4096}, "sliding_window = 4096 is not supported"),
        ({"llama.final_logit_softcapping": 30.0}, r"softcapping = 30\.0 is not supported"),
        ({"llama.attention.causal": False}, "causal = False is not supported"),
        ({"llama.new_feature": 1}, r"llama\.new_feature of the GGUF file is not known"),
        ({"split.count": 2}, r"split\.count is 2.*llama-gguf-split --merge"),
        ({"llama.block_count": (1 << 32) - 1}, "block_count is 4294967295, not one positive number"),
        ({"llama.block_count": (1 << 31) - 1}, "depth is said to be 2147483647"),
        ({"llama.embedding_length": 1 << 30}, "width is said to be 1073741824"),
    ],
)
def test_what_is_not_supported_is_named(whole, change, complaint):
    metadata, tensors = whole
    changed = {key: value for key, value in {**metadata, **change}.items() if value is not None}
    with pytest.raises(InputError, match=complaint):
        gguf.model(changed, tensors)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"rope.scaling.type": "linear"}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}, None),
        ({"rope.scaling.factor": 4.0}, 4.0),  # the type is linear where it is missing
        ({"rope.scale_linear": 2.0}, 2.0),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scale_linear": 2.0}, 4.0),
    ],
)
def test_scalings_are_those_of_llama_cpp(whole, change, factor):
    metadata, tensors = whole
    model, _ = gguf.model(metadata | {f"llama.{key}": value for key, value in change.items()}, tensors)
    assert (model.positions.scaling and model.positions.scaling.factor) == factor


def test_sizes_that_are_missing_follow_from_others(whole):
    metadata, tensors = whole
    missing = ("attention.key_length", "rope.freq_base")
    model, _ = gguf.model({k: v for k, v in metadata.items() if not k.endswith(missing)}, tensors)
    assert (model.attention.head_width, model.positions.theta) == (model.width // model.attention.heads, 10_000.0)
    heads = {"llama.attention.head_count_kv": [1, 1, 1]}
    assert gguf.model(metadata | heads, tensors)[0].attention.kv_heads == 1
    without = {k: v for k, v in metadata.items() if not k.endswith("head_count_kv")}
    assert gguf.model(without, tensors)[0].attention.kv_heads == model.attention.heads


def test_another_file_is_named(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"PK" + bytes(100))
    with pytest.raises(InputError, match="it does not begin with GGUF"):
        interop.open_checkpoint(str(tmp_path / "other.gguf"))


def test_a_quantisation_without_inverse_is_named(small):
    """Q8_1 exists only while llama.cpp computes."""
    content = bytearray(small.read_bytes())
    name = content.index(b"a.weight")
    kind = name + len("a.weight") + 4 + 2 * 8
    content[kind : kind + 4] = int(library.GGMLQuantizationType.Q8_1).to_bytes(4, "little")
    small.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.weight' is of type Q8_1, which cannot be de-quantised"):
        gguf.open_file(small)
