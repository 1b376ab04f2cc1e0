"""An adapter of `peft` is read as `peft` merges it; one that is more than a sum is refused by what makes it so."""

import json

import numpy as np
import pytest

from research.data import tokenizers
from research.errors import InputError
from research.interop import huggingface, mapping, tokenizer_json

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
        ({"base_model_name_or_path": "./gone"}, "only an adapter .* which cannot be read"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=complaint):
            huggingface.read(folder)
    (folder / "adapter_model.safetensors").unlink()
    path.write_text(json.dumps(good))
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        huggingface.read(folder)
