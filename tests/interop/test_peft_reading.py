"""An adapter of `peft` is read as `peft` merges it; one that is more than a sum is refused by what makes it so."""

import dataclasses
import json

import numpy as np
import pytest

from research.data import tokenizers
from research.errors import InputError
from research.interop import huggingface, mapping, peft_reading, tokenizer_json

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from tests.interop import peers  # noqa: E402
from tests.models.tiny import logits  # noqa: E402

GPT2 = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
LLAMA = {"target_modules": ["q_proj", "v_proj", "up_proj"], "modules_to_save": ["o_proj"]}
PATTERNS = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 9, "0.mlp.up_proj": 3}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folders of a base and of an adapter of it, and the numbers with it."""

    def save(name: str, **settings):
        folder = tmp_path_factory.mktemp("adapter")
        peer = peers.peer(name)
        peer.save_pretrained(folder / "base")
        adapted = peft.get_peft_model(peer, peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **settings))
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "modules_to_save" in key:
                    parameter.add_(0.1)
        adapted.eval().save_pretrained(folder / "adapter")
        path = folder / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(folder / "base")}))
        batch = peers.batch(name, peer.config.vocab_size)
        return folder / "adapter", batch, peers.outputs(adapted, batch).detach().numpy()

    return save


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gpt2", GPT2), ("llama 3.1", LLAMA | PATTERNS), ("llama biases", LLAMA | {"use_rslora": True, "bias": "all"})],
)
def test_an_adapter_is_put_on_its_model(saved, name, settings):
    folder, batch, expected = saved(name, **settings)
    model, names, tensors = huggingface.read(folder)
    ours = np.asarray(logits(model, mapping.load_params(model, names, tensors), batch))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_what_is_more_than_a_sum_is_refused(saved):
    folder, _, _ = saved("llama 3.1", **LLAMA)
    tokenizer_json.write(folder.parent / "base", tokenizers.load("bytes"), ends=False)
    assert huggingface.read_tokenizer(folder).size == 258  # of its base
    path = folder / "adapter_config.json"
    good = json.loads(path.read_text())
    for change, complaint in (
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the model itself"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern are .*, not numbers"),
        ({"lora_alpha": float("nan")}, "lora_alpha and alpha_pattern are .*, not numbers"),
        ({"alpha_pattern": {"(q+)+x": 1}}, "alpha_pattern .* is not of names of modules"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern .* is not of names of modules"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config = .* is not supported"),
        ({"base_model_name_or_path": "./gone"}, "only an adapter .* which cannot be read"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=complaint):
            huggingface.read(folder)
    (folder / "adapter_model.safetensors").unlink()
    path.write_text(json.dumps(good))
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        huggingface.read(folder)


def test_an_embedding_that_is_no_longer_tied_is_refused(saved):
    """`peft` would leave the output layer with the old one."""
    for name, settings in (
        ("smollm2", {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}),
        ("gpt2", GPT2 | {"modules_to_save": ["wte"]}),
    ):
        folder, _, _ = saved(name, **settings)
        with pytest.raises(InputError, match=r"it changes .*, but not lm_head\.weight, which is tied to it"):
            huggingface.read(folder)


def test_every_field_of_an_adapter_is_read_or_refused_or_without_effect():
    """On what the adapted model computes."""
    of_training = {"lora_dropout", "inference_mode", "velora_config", "eva_config", "lora_ga_config", "corda_config"}
    of_training |= {"ephemeral_gpu_offload", "runtime_config", "loftq_config", "ensure_weight_tying", "task_type"}
    of_tensors = {"r", "rank_pattern", "bias", "modules_to_save", "target_modules", "exclude_modules", "layers_pattern"}
    of_tensors |= {"layers_to_transform"}  # the file has what they chose
    read = {"peft_type", "base_model_name_or_path", "revision", "lora_alpha", "alpha_pattern", "use_rslora"}
    read |= {"fan_in_fan_out", "init_lora_weights"}
    of_refused = {"megatron_core", "qalora_group_size", "auto_mapping", "peft_version"}
    known = of_training | of_tensors | read | of_refused | set(peft_reading._REFUSED)
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} <= known
