"""The command `convert`: what it writes is whole, loads elsewhere, and says the same."""

import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import research
from research import config, models, objectives
from research.commands import convert as convert_command
from research.config import Causal, Lora, Masked, Model, Objective, Prefix, SpanCorruption, replace_fields
from research.data import tokenizers
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.inference.language_model import LanguageModel
from research.interop import tokenizer_json
from research.models import families
from research.runs import convert
from tests.models.tiny import logits

TEXT = "Return a list of the naïve 言葉 \x00 in 12 files."
SMALL = {
    "width": 24,
    "depth": 2,
    "attention.heads": 2,
    "attention.kv_heads": 0,
    "attention.head_width": 0,
    "mlp.width": 40,
    "vocabulary": 0,
}
LLAMA = replace_fields(families.llama("1b"), SMALL | {"attention.kv_heads": 1})
BERT = replace_fields(families.bert("base"), SMALL | {"positions.max_length": 64})
T5 = replace_fields(families.t5("small"), SMALL | {"encoder_depth": 1})


def random_run(folder: Path, model: Model, objective: Objective, tokenizer: Tokenizer | None = None) -> Path:
    """A run folder with random parameters, as training leaves it but for the steps."""
    tokenizer = tokenizers.extend(tokenizer or tokenizers.load("bytes"), (objective,))
    model = config.resolve(model, tokenizer.size, 64)
    leaves = models.flatten(jax.jit(models.init, static_argnums=0)(model, jax.random.key(1)))
    random = np.random.default_rng(0)
    leaves = {path: leaf + random.normal(0, 0.2, leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    convert.write_run(folder, LanguageModel(model, models.unflatten(leaves), tokenizer, (objective,)), "nowhere")
    return folder


def said(peer, **ids: list[int]) -> np.ndarray:
    """The logits of a model of transformers."""
    import torch

    with torch.no_grad():
        return peer(**{name: torch.tensor([each]) for name, each in ids.items()}).logits[0].numpy()


@pytest.mark.parametrize(("objective", "model"), [(Causal(), LLAMA), (Masked(), BERT)])
def test_a_run_becomes_what_transformers_loads_and_back(tmp_path, objective, model):
    transformers = pytest.importorskip("transformers")
    ours = research.load(str(random_run(tmp_path / "run", model, objective)))
    convert_command.main([str(tmp_path / "run"), str(tmp_path / "theirs")])
    kind = transformers.AutoModelForCausalLM if isinstance(objective, Causal) else transformers.AutoModelForMaskedLM
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")(TEXT).input_ids
    assert ids == [256, *ours.tokenizer.encode(TEXT), *([257] if isinstance(objective, Masked) else [])]
    (wanted,) = ours.logits([TEXT])
    got = said(kind.from_pretrained(tmp_path / "theirs").eval(), input_ids=ids)
    np.testing.assert_allclose(got, wanted[: len(ids)], atol=1e-4 * np.abs(wanted).max())

    convert_command.main([str(tmp_path / "theirs"), str(tmp_path / "back")])
    back = research.load(str(tmp_path / "back"))
    assert back.objectives == (type(objective)(),)
    np.testing.assert_array_equal(back.logits([TEXT])[0], wanted)


def test_a_run_of_characters_becomes_what_transformers_loads(tmp_path):
    """As nanoGPT's models: without any special token."""
    transformers = pytest.importorskip("transformers")
    text = "To be, or not\nto bé"
    made = tokenizers.make("characters", lambda: [text])
    model = replace_fields(families.gpt2("124m"), SMALL | {"positions.max_length": 64})
    ours = research.load(str(random_run(tmp_path / "run", model, Causal(), made)))
    convert_command.main([str(tmp_path / "run"), str(tmp_path / "theirs")])
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    ids = tokenizer(text).input_ids
    assert ids == ours.tokenizer.encode(text) and tokenizer.decode(ids) == text
    wanted = ours.logits([text])[0]
    np.testing.assert_allclose(said(peer, input_ids=ids), wanted, atol=1e-4 * np.abs(wanted).max())
    with pytest.raises(Exception, match="UNK"):  # nothing stands for a character that the text did not have
        tokenizer("z")


def test_an_encoder_decoder_starts_and_ends_there_as_here(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = research.load(str(random_run(tmp_path / "run", T5, SpanCorruption())))
    convert_command.main([str(tmp_path / "run"), str(tmp_path / "theirs")])
    peer = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "theirs").eval()
    source = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")("the <extra_id_0> of a file").input_ids
    sentinel = ours.tokenizer.sentinels[0]
    assert source == [256, *ours.tokenizer.encode("the "), sentinel, *ours.tokenizer.encode(" of a file"), 257]
    assert peer.config.decoder_start_token_id == 256
    output = np.array([sentinel, *ours.tokenizer.encode("name"), 0], np.int32)
    batch = objectives.stack([objectives.row([objectives.join(np.array(source, np.int32), output, 256)], 8, 32)])
    wanted = np.asarray(logits(ours.config, ours.params, batch))[0, : len(output)]
    got = said(peer, input_ids=source, decoder_input_ids=batch.tokens[0, : len(output)].tolist())
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_adapters_are_merged(tmp_path):
    source = random_run(tmp_path / "run", replace(LLAMA, lora=Lora(rank=2, alpha=1.0)), Causal())
    for dtype in ("float32", "bfloat16"):
        convert_command.main([str(source), str(tmp_path / dtype), "--dtype", dtype])
    exact, rounded = (research.load(str(tmp_path / dtype)) for dtype in ("float32", "bfloat16"))
    assert exact.config.lora is None
    wanted = research.load(str(source)).logits([TEXT])[0]
    np.testing.assert_allclose(exact.logits([TEXT])[0], wanted, atol=1e-4 * np.abs(wanted).max())
    for one, other in zip(jax.tree.leaves(exact.params), jax.tree.leaves(rounded.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-8)


def test_nothing_is_written_by_halves(tmp_path, monkeypatch):
    source = random_run(tmp_path / "run", LLAMA, Causal())

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    for options, there in (("huggingface", tokenizer_json), ("run", convert.checkpoint)):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(there, "write" if options == "huggingface" else "save", full)
            convert_command.main([str(source), str(tmp_path / "new"), "--to", options])
    assert os.listdir(tmp_path) == ["run"]


def test_what_cannot_be_converted_is_told(tmp_path):
    source = str(random_run(tmp_path / "run", LLAMA, Prefix()))
    with pytest.raises(InputError, match=r"with causal attention, but it was trained with Prefix \(prefix\)"):
        convert_command.main([source, str(tmp_path / "new")])
    with pytest.raises(InputError, match=r"the model has no adapters \(model\.lora\)"):
        convert_command.main([source, str(tmp_path / "new"), "--to", "peft"])
    odd = str(random_run(tmp_path / "odd", replace_fields(LLAMA, {"norm.placement": "post"}), Causal()))
    with pytest.raises(InputError, match=r"llama is nearest, but norm\.placement is 'post', there 'pre'"):
        convert_command.main([odd, str(tmp_path / "new")])
    with pytest.raises(InputError, match="run exists; choose another name"):
        convert_command.main([odd, source])
    with pytest.raises(InputError, match="is no folder with a checkpoint"):
        convert_command.main([str(tmp_path / "absent"), str(tmp_path / "new")])
    with pytest.raises(InputError, match="convert begins with a checkpoint and a new folder"):
        convert_command.main([source, "--to", "huggingface"])
    assert sorted(os.listdir(tmp_path)) == ["odd", "run"]
