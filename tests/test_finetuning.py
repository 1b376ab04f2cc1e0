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
from research import command_line, config, convert, interop, models
from research.config import Evaluation, Experiment, Logging, Model, Schedule
from research.data.coders import HuggingFace
from research.data.tokenizers import Tokenizer
from research.interop import huggingface
from research.models import adapters, families
from research.train import train

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SMALL = {"width": 16, "depth": 2, "heads": 2, "kv_heads": 0, "head_width": 0, "mlp_width": 24, "vocabulary": 0}
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
        folder, replace(families.llama("1b"), **SMALL | {"kv_heads": 1}), tokenizer("<s>", "</s>", eos=257)
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
    experiment = command_line.read(CONFIGS / f"{name}.py")
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


@pytest.mark.parametrize("name", CHANGED)
def test_what_a_config_changes(name, llama, texts, tmp_path):
    _, result = tuned(name, llama, texts, tmp_path / "run")
    assert all(np.isfinite(losses["loss"]) for losses in result["objectives"].values())
    model, params, _ = interop.load(str(llama))
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
        convert.main([str(tmp_path / "run"), str(tmp_path / "merged")])
        (wanted,), (got,) = (lm.logits(["7 has"]) for lm in (after, research.load(str(tmp_path / "merged"))))
        np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())
        convert.main([str(tmp_path / "run"), str(tmp_path / "adapter"), "--to", "peft"])
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == str(llama)
