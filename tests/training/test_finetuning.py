"""The configs that start from a checkpoint, trained for a few steps from a tiny one: what changes, and what not."""

import io
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers as library
from rich.console import Console

import research
from research import config, interop, models
from research.commands import convert as convert_command
from research.config import Evaluation, Experiment, Logging, Model, Schedule, config_file, replace_fields
from research.data.huggingface_backend import HuggingFace
from research.data.tokenizers import Tokenizer
from research.errors import InputError
from research.interop import huggingface
from research.models import adapters, families
from research.runs.trainer import train

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = {
    "width": 16,
    "depth": 2,
    "attention.heads": 2,
    "attention.kv_heads": 0,
    "attention.head_width": 0,
    "mlp.width": 24,
    "vocabulary": 0,
}
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def tokenizer(*names: str, **roles: int) -> Tokenizer:
    """Bytes with special tokens after them."""
    made = library.Tokenizer(library.models.BPE({f"<0x{n:02X}>": n for n in range(256)}, [], byte_fallback=True))
    made.decoder = library.decoders.Sequence([library.decoders.ByteFallback(), library.decoders.Fuse()])
    made.add_special_tokens(list(names))
    special = dict(enumerate(names, 256))
    sentinels = tuple(i for i, name in reversed(special.items()) if name.startswith("<extra_id_"))
    return Tokenizer(HuggingFace(made.to_str()), special, sentinels=sentinels, chat_template=TEMPLATE, **roles)


def checkpoint(folder: Path, model: Model, spoken: Tokenizer) -> Path:
    """A Hugging Face folder with random parameters."""
    model = config.resolve(model, spoken.size, 64)
    params = jax.jit(models.init, static_argnums=0)(model, jax.random.key(1))
    huggingface.write(folder, model, params, spoken)
    return folder


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Meshes are tested elsewhere; a program for one device compiles in a fraction of the time."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "base"
    return checkpoint(
        folder,
        replace_fields(families.llama("1b"), SMALL | {"attention.kv_heads": 1}),
        tokenizer("<s>", "</s>", eos=257),
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(20):
        (folder / f"{number}.txt").write_text("\n".join(f"{n} has the square {n * n}." for n in range(number, 30)))
        turns = [{"role": "user", "content": f"{number} times 2?"}, {"role": "assistant", "content": str(2 * number)}]
        lines = [{"messages": turns}, {"prompt": f"{number} and 1? ", "completion": str(number + 1)}]
        (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def tuned(name: str, base: Path, texts: Path, folder: Path) -> tuple[Experiment, dict]:
    """Runs a config at tiny size; its experiment and its result."""
    experiment = config_file.read(CONFIGS / f"{name}.py")
    source = f"chat:{texts}/*.jsonl" if "instruction" in name else f"text:{texts}/*.txt"
    data = replace(experiment.data, source=source, length=48, batch=8, held_out=0.2, cache=str(texts / "cache"))
    experiment = replace(
        experiment,
        initialize_from=str(base),
        data=data if data.source_length is None else replace(data, source_length=64),
        optimizer=replace(experiment.optimizer, learning_rate=1e-2),
        schedule=Schedule(steps=3, warmup=0),
        evaluation=Evaluation(every=0, final_batches=1, samples=False),
        logging=Logging(tensorboard=False),
    )
    return experiment, train(experiment, folder, Console(file=io.StringIO()))


CHANGED = {  # config -> which parameters it changes
    "finetune": lambda path: True,
    "finetune_frozen": lambda path: path != "embedding" and "/attention/" not in path,
    "finetune_lora": adapters.is_adapter,
    "finetune_lora_8bit": adapters.is_adapter,
    "finetune_lora_4bit": adapters.is_adapter,
    "instruction_tuning": lambda path: True,
}


SLOW = {"finetune_lora_8bit": (pytest.mark.slow,)}  # four bits go the same way


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CHANGED])
def test_what_a_config_changes(name, llama, texts, tmp_path):
    _, result = tuned(name, llama, texts, tmp_path / "run")
    assert all(np.isfinite(losses["loss"]) for losses in result["objectives"].values())
    model, params, _ = interop.load_checkpoint(str(llama))
    after = research.load(str(tmp_path / "run"))
    before = {}
    for path, leaf in models.flatten(params).items():
        before |= adapters.stored(after.config, path, leaf)
    assert adapters.plain(after.config) == replace(model, **{n: getattr(after.config, n) for n in ("unroll", "remat")})
    trained = models.flatten(after.params)
    same = {path for path, leaf in before.items() if np.array_equal(leaf, trained[path])}
    changes = {path for path in trained if CHANGED[name](path)}
    assert set(trained) - same == changes and changes
    assert all(np.any(trained[path]) for path in changes)

    if after.config.lora is not None:  # merged for others, or kept apart
        convert_command.main([str(tmp_path / "run"), str(tmp_path / "merged")])
        (wanted,), (got,) = (lm.logits(["7 has"]) for lm in (after, research.load(str(tmp_path / "merged"))))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
        convert_command.main([str(tmp_path / "run"), str(tmp_path / "adapter"), "--to", "peft"])
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == str(llama)


CONTINUED = {
    "continue_bert": (
        replace_fields(families.bert("base"), SMALL | {"positions.max_length": 64}),
        tokenizer("[CLS]", "[SEP]", "[MASK]", bos=256, eos=257, mask=258),
    ),
    "continue_t5": (
        replace_fields(families.t5("small"), SMALL | {"encoder_depth": 2}),
        tokenizer("</s>", *(f"<extra_id_{n}>" for n in reversed(range(100))), eos=256),
    ),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_an_imported_model_goes_on_by_its_own_objective(name, texts, tmp_path):
    base = checkpoint(tmp_path / "base", *CONTINUED[name])
    experiment, result = tuned(name, base, texts, tmp_path / "run")
    assert all(np.isfinite(losses["loss"]) for losses in result["objectives"].values())
    convert_command.main([str(tmp_path / "run"), str(tmp_path / "theirs")])
    before, after, back = (research.load(str(tmp_path / each)) for each in ("base", "run", "theirs"))
    assert after.objectives == experiment.objectives
    assert (after.tokenizer.size, after.tokenizer.sentinels) == (before.tokenizer.size, before.tokenizer.sentinels)
    first, wanted, got = (np.array(lm.token_losses("12 has the square 144.")["loss"]) for lm in (before, after, back))
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert np.abs(wanted - first).min() > 1e-4


def test_what_cannot_be_begun_with_is_told(llama, texts, tmp_path):
    def begin(**changes) -> None:
        experiment = replace(config_file.read(CONFIGS / "finetune.py"), **{"initialize_from": str(llama), **changes})
        train(experiment, tmp_path / "run", Console(file=io.StringIO()))

    with pytest.raises(InputError, match="is no folder with a checkpoint"):
        begin(initialize_from=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"model\.quantization_bits: 4-bit kernels are not trained"):
        begin(model=Model(quantization_bits=4))
    assert not (tmp_path / "run").exists()
