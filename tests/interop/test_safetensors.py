"""safetensors: what is written is read, here and by the reference library; nothing damaged is ever read."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from research.errors import InputError
from research.interop import safetensors as ours

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
ONCE = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    max_size=5,
)


def arrays(shapes: dict[str, tuple[int, ...]], dtype: np.dtype) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def encoded(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@ONCE
@given(shapes, st.sampled_from(FLOATS))
def test_reads_what_it_wrote(tmp_path, shapes, dtype):
    wanted = arrays(shapes, np.dtype(dtype))
    path = tmp_path / "model.safetensors"
    ours.write_file(path, shapes, np.dtype(dtype), wanted.items())
    got = ours.open_file(path)
    assert list(got) == list(shapes)
    for name, tensor in got.items():
        assert tensor.shape == shapes[name]
        np.testing.assert_array_equal(tensor.read(), wanted[name])


def test_the_reference_library_reads_what_is_written_and_the_reverse(tmp_path):
    wanted = arrays({"a": (3, 4), "b.weight": (), "c": (0, 2)}, np.dtype(np.float32))
    ours.write_file(tmp_path / "ours", {n: a.shape for n, a in wanted.items()}, np.dtype(np.float32), wanted.items())
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    safetensors.numpy.save_file(wanted, tmp_path / "theirs")
    back = ours.open_file(tmp_path / "theirs")
    for name, array in wanted.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(back[name].read(), array)


def test_large_models_become_several_files_with_an_index(tmp_path):
    wanted = arrays({f"layer.{i}": (10, 10) for i in range(7)}, np.dtype(np.float32))
    shapes = {name: array.shape for name, array in wanted.items()}
    ours.write_folder(tmp_path, shapes, np.dtype(np.float32), iter(wanted.items()), limit=1000)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert files[0] == "model-00001-of-00004.safetensors" and len(files) == 4
    got = ours.open_folder(tmp_path)
    assert set(got) == set(wanted)
    np.testing.assert_array_equal(got["layer.6"].read(), wanted["layer.6"])
    (tmp_path / files[2]).unlink()
    with pytest.raises(InputError, match=r"model-00003-of-00004"):
        ours.open_folder(tmp_path)


@ONCE
@given(st.data())
def test_no_truncated_file_is_read(tmp_path, data):
    path = tmp_path / "model.safetensors"
    wanted = arrays({"a": (3, 5), "b": (7,)}, np.dtype(np.float32))
    ours.write_file(path, {n: a.shape for n, a in wanted.items()}, np.dtype(np.float32), wanted.items())
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(InputError, match=r"model\.safetensors is not a sound"):
        ours.open_file(path)


@ONCE
@given(st.binary(max_size=200))
def test_no_garbage_is_read(tmp_path, garbage):
    path = tmp_path / "model.safetensors"
    path.write_bytes(garbage)
    try:
        assert ours.open_file(path) == {}
    except InputError:
        return
    assert json.loads(garbage[8:]).keys() <= {"__metadata__"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "", 3]), "shape": json_values, "data_offsets": json_values}
)


@ONCE
@given(st.dictionaries(st.text(max_size=5), json_values | entries, max_size=3), st.binary(max_size=24))
def test_a_header_may_say_anything(tmp_path, header, data):
    """It is an error, or every tensor can be read and has the shape that it claims."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded(header, data))
    try:
        tensors = ours.open_file(path)
    except InputError:
        return
    for tensor in tensors.values():
        assert tensor.read().shape == tensor.shape


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}, "has 8 bytes, which is not F32 of shape"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "have 16 bytes, but 8 are there"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "begins at byte 4"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "have 4 bytes, but 8 are there"),
        ({"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}, "dtype F4"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "malformed"),
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}, "not F32 of shape"),
        ({"dtype": "F32", "shape": [2]}, "malformed"),
    ],
)
def test_a_lying_header_is_told(tmp_path, entry, complaint):
    path = tmp_path / "model.safetensors"
    path.write_bytes(encoded({"weight": entry}, b"\0" * 8))
    with pytest.raises(InputError, match=complaint):
        ours.open_file(path)


def test_a_header_without_end_is_not_believed(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="claims a header of"):
        ours.open_file(path)
    twice = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": 3}'
    path.write_bytes(len(twice).to_bytes(8, "little") + twice)
    with pytest.raises(InputError, match="twice"):
        ours.open_file(path)
