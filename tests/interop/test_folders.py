"""What is wrong with a checkpoint is told at once, by its name; nothing of it is guessed."""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from research import interop
from research.config import MLP, Attention, Model, resolve
from research.data import tokenizers
from research.errors import InputError
from research.interop import config_json, mapping, safetensors, tokenizer_json

MODEL = Model(width=8, depth=2, vocabulary=272, attention=Attention(heads=2), mlp=MLP(width=12))
LLAMA = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
LLAMA |= {"model_type": "llama", "vocab_size": 272, "tie_word_embeddings": True}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sound checkpoint, to be damaged."""
    model = resolve(MODEL, 0, 32)
    _, names = config_json.write(model)
    arrays = {name: np.ones(shape, np.float32) for name, shape in mapping.shapes(model, names).items()}
    put(tmp_path, arrays)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    tokenizer_json.write(tmp_path, tokenizers.load("bytes"), ends=False)
    interop.load_checkpoint(str(tmp_path))
    return tmp_path


def put(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    safetensors.write_file(folder / safetensors.SINGLE, shapes, np.dtype(np.float32), arrays.items())


def arrays(folder: Path) -> dict[str, np.ndarray]:
    tensors = safetensors.open_folder(folder)
    return {name: np.array(tensor.read()) for name, tensor in tensors.items()}


def test_tensors_that_do_not_fit_are_named(folder):
    good = arrays(folder)
    norm, query = "model.norm.weight", "model.layers.1.self_attn.q_proj.weight"
    for change, complaint in (
        ({norm: None}, r"missing: model\.norm\.weight"),
        ({"model.layers.2.mlp.up_proj.weight": np.ones(3)}, r"left over: model\.layers\.2\.mlp\.up_proj\.weight"),
        ({query: np.ones((8, 4))}, r"model\.layers\.1\.self_attn\.q_proj\.weight is \[8, 4\], not \[8, 8\]"),
        ({"lm_head.weight": np.zeros((272, 8))}, r"lm_head\.weight differs from model\.embed_tokens\.weight"),
    ):
        put(folder, {name: array for name, array in (good | change).items() if array is not None})
        with pytest.raises(InputError, match=complaint):
            interop.load_checkpoint(str(folder))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_prefixes_that_tools_leave_are_passed_over(folder, prefix):
    good = arrays(folder)
    expected = interop.load_checkpoint(str(folder))[1]
    buffer = {f"{prefix}model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2)}
    put(folder, {prefix + name: array for name, array in good.items()} | buffer)
    jax.tree.map(np.testing.assert_array_equal, interop.load_checkpoint(str(folder))[1], expected)
    put(folder, {prefix + name.removeprefix("model."): array for name, array in good.items()})
    jax.tree.map(np.testing.assert_array_equal, interop.load_checkpoint(str(folder))[1], expected)


def test_unknown_keys_of_a_config_are_said(folder, caplog):
    (folder / "config.json").write_text(json.dumps(LLAMA | {"some_new_thing": 3, "use_cache": False}))
    interop.open_checkpoint(str(folder))
    assert "some_new_thing" in caplog.text and "use_cache" not in caplog.text
    (folder / "config.json").write_text(json.dumps(LLAMA | {"per_layer_config": {"0": {"head_dim": 3}}}))
    with pytest.raises(InputError, match=r"per_layer_config = .* is not supported"):
        interop.open_checkpoint(str(folder))


def test_other_names_of_a_key_are_read_or_contradict():
    aliased, _ = config_json.read({"model_type": "gpt2", "hidden_size": 96, "num_hidden_layers": 3})
    assert (aliased.width, aliased.depth) == (96, 3)
    with pytest.raises(InputError, match="hidden_size is 96, but n_embd, which is the same, 48"):
        config_json.read({"model_type": "gpt2", "hidden_size": 96, "n_embd": 48})
    with pytest.raises(InputError, match="rope_theta is 500, but rotary_emb_base, which is the same, 10000"):
        config_json.read({"model_type": "gpt_neox", "rope_theta": 500})


def test_what_follows_from_a_key_of_t5_may_be_given_and_counts():
    model, _ = config_json.read({"model_type": "t5", "feed_forward_proj": "gated-gelu", "dense_act_fn": "silu"})
    assert (model.mlp.activation, model.mlp.gated) == ("silu", True)
    model, _ = config_json.read({"model_type": "t5", "feed_forward_proj": "gated-gelu", "is_gated_act": False})
    assert (model.mlp.activation, model.mlp.gated) == ("gelu_tanh", False)


def test_integers_are_no_parameters(folder):
    path = folder / safetensors.SINGLE
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(InputError, match="is of int32, not of a float type"):
        interop.load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; these are: gpt2, llama"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4}}, "rope_scaling of type 'longrope' is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention is not supported"),
        ({"hidden_act": "xielu"}, "the activation 'xielu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window = True is not supported"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"model_type": "t5", "feed_forward_proj": "gated-xielu"}, "the activation 'xielu' is not supported"),
        ({"model_type": "modernbert", "classifier_bias": True}, "classifier_bias unlike mlp_bias"),
        ({"model_type": "modernbert", "sliding_window": 3}, "sliding_window = 3 is not half of local_attention"),
        ({"model_type": "roberta", "hidden_act": "relu"}, "roberta with hidden_act = 'relu' is not supported"),
        ({"model_type": "electra", "hidden_act": "relu"}, "electra with hidden_act = 'relu' is not supported"),
        ({"is_decoder": True}, "is_decoder = True is not supported"),
    ],
)
def test_a_feature_that_the_stack_lacks_is_refused_by_its_name(folder, change, complaint):
    (folder / "config.json").write_text(json.dumps(LLAMA | change))
    with pytest.raises(InputError, match=complaint):
        interop.open_checkpoint(str(folder))


def test_a_folder_that_lacks_a_part_is_told(folder, tmp_path_factory):
    (folder / "config.json").write_text("[")
    with pytest.raises(InputError, match=r"config\.json is not JSON"):
        interop.open_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        interop.open_checkpoint(str(folder))
    with pytest.raises(InputError, match="is no folder with a checkpoint"):
        interop.open_checkpoint(str(folder / "nowhere"))


def test_pickles_are_refused_with_the_way_to_convert_them(folder):
    (folder / safetensors.SINGLE).unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        interop.open_checkpoint(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"pickles \(pytorch_model\.bin\).*save_pretrained"):
        interop.open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rope_scaling": {"rope_type": "linear"}}, "of type linear has factor = None, not a positive number"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "of type llama3 has low_freq_factor = None"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\], not an object"),
        ({"rope_theta": "x"}, "rope_theta is 'x'"),
        ({"num_hidden_layers": 1 << 31}, "num_hidden_layers is '2147483648', not a number of at least 1"),
        ({"num_hidden_layers": 1 << 30}, "depth is said to be 1073741824"),
        ({"vocab_size": -64}, "vocab_size is '-64'"),
        ({"vocab_size": 1 << 30}, "vocabulary is said to be 1073741824"),
        ({"hidden_size": "8"}, "hidden_size is '8', not a number of at least 1"),
        ({"num_attention_heads": 2.0}, "num_attention_heads is '2.0'"),
        ({"rms_norm_eps": [1]}, r"rms_norm_eps is '\[1\]', not a finite number"),
        ({"architectures": "\ud800"}, "architectures is"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not supported"),
        ({"model_type": "bert", "num_attention_heads": 0}, "num_attention_heads is '0'"),
    ],
)
def test_values_of_a_config_are_checked_by_their_name(folder, change, complaint):
    (folder / "config.json").write_text(json.dumps(LLAMA | change))
    with pytest.raises(InputError, match=complaint):
        interop.open_checkpoint(str(folder))


def test_roberta_without_padding_has_its_usual_offset():
    model, _ = config_json.read({"model_type": "roberta", "pad_token_id": None})
    assert model.positions.offset == 2


def test_of_several_weights_those_of_transformers_are_read(folder, caplog):
    good = arrays(folder)
    stale = {"metadata": {}, "weight_map": dict.fromkeys(good, "gone.safetensors")}
    (folder / safetensors.INDEX).write_text(json.dumps(stale))
    (folder / "consolidated.safetensors").write_bytes((folder / safetensors.SINGLE).read_bytes())
    (folder / "model.gguf").write_bytes(b"GGUF")
    opened = interop.open_checkpoint(str(folder))
    assert opened.model.width == 8
    for name in ("consolidated.safetensors", "model.gguf", safetensors.INDEX):
        assert name in caplog.text
    (folder / safetensors.INDEX).unlink()
    (folder / safetensors.SINGLE).unlink()
    with pytest.raises(InputError, match=r"has consolidated\.safetensors, but neither model\.safetensors nor"):
        interop.open_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"name the GGUF file itself: .*model\.gguf"):
        interop.open_checkpoint(str(folder))


def test_an_adapter_is_named_beside_a_model_and_alone(folder):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(InputError, match=r"beside it an adapter \(LORA, adapter_config\.json, of 'some/base'\)"):
        interop.open_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"only an adapter \(LORA\) of the model 'some/base'"):
        interop.open_checkpoint(str(folder))


def test_a_padding_token_without_a_row_is_left_out_and_said(folder, caplog):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "[PAD]"}))
    (folder / "config.json").write_text(json.dumps(LLAMA | {"vocab_size": 258}))
    put(folder, {name: a[:258] if name == "model.embed_tokens.weight" else a for name, a in arrays(folder).items()})
    opened = interop.open_checkpoint(str(folder))
    assert opened.tokenizer.size == 258 and "[PAD]" in caplog.text
    assert opened.tokenizer.encode("[PAD]") == list(b"[PAD]")


def test_ends_of_generation_beyond_the_embedding_are_left_out_and_said(folder, caplog):
    (folder / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": [257, 5000]}))
    assert interop.open_checkpoint(str(folder)).tokenizer.stops == (257,)
    assert "eos_token_id [257, 5000], but the embedding has only 272 rows" in caplog.text
    (folder / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 5000}))
    with pytest.raises(InputError, match="only 272 rows: nothing would end a text"):
        interop.open_checkpoint(str(folder))


def test_a_cache_names_only_its_own_snapshots(tmp_path):
    cache = tmp_path / "models--some--model"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("../../..")
    with pytest.raises(InputError, match="does not name a snapshot"):
        interop.open_checkpoint(str(cache))


def test_a_tokenizer_that_does_not_fit_the_embedding_is_told(folder):
    config = LLAMA | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the tokenizer has 258 ids, but the embedding only 200 rows"):
        interop.open_checkpoint(str(folder))


def test_a_truncated_file_is_told_before_anything_is_read(folder):
    path = folder / safetensors.SINGLE
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"model\.safetensors is not a sound safetensors file: its tensors have"):
        interop.open_checkpoint(str(folder))


def test_a_cache_is_a_folder_too(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub") / "models--some--model"
    (cache / "snapshots").mkdir(parents=True)
    with pytest.raises(InputError, match="without refs/main"):
        interop.open_checkpoint(str(cache))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    with pytest.raises(InputError, match="is no folder with a checkpoint"):
        interop.open_checkpoint(str(cache))
    (cache / "snapshots" / "abc").symlink_to(folder)
    assert interop.open_checkpoint(str(cache)).model.width == 8


def test_names_that_no_disk_takes_are_told(folder):
    (folder / safetensors.SINGLE).unlink()
    (folder / safetensors.INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 300}}))
    with pytest.raises(InputError, match="names files that are not beside it: xxx"):
        interop.open_checkpoint(str(folder))
    with pytest.raises(InputError, match="a name in it has more than 255 bytes"):
        interop.open_checkpoint("x" * 300)


@pytest.mark.parametrize("refused", [True, False])
def test_a_hub_that_cannot_be_reached_is_told_within_seconds(tmp_path, refused):
    """Whether the connection is refused, or stands and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = 9 if refused else server.getsockname()[1]
        program = (
            "import huggingface_hub, time\nfrom research import interop\nfrom research.errors import InputError\n"
            "began = time.monotonic()\n"
            "try:\n    interop.open_checkpoint('nobody/nothing')\nexcept InputError as error:\n"
            "    print(time.monotonic() - began, error)"
        )
        settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path)}
        settings["NO_PROXY"] = "127.0.0.1"
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | settings, capture_output=True, text=True, check=True
        )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 30 and "'nobody/nothing' is no folder here" in message
