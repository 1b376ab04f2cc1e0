"""What docs/performance.md measures, by name. The text is random tokens: speed does not depend on what it says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from research.config import (
    Causal,
    Data,
    Experiment,
    Masked,
    Model,
    Objective,
    Optimizer,
    Prefix,
    Schedule,
    SpanCorruption,
    Step,
    replace_fields,
)
from research.data.cache import building
from research.models import families
from research.runtime import processes

TOKENS = 1 << 21  # in the random text


def _case(
    model: Model,
    objective: Objective,
    length: int,
    batch: int,
    document: int,
    compute: str = "bfloat16",
    source_length: int | None = None,
) -> Experiment:
    model = replace_fields(model, {"unroll": model.depth, "dropout": 0.0, "attention.dropout": 0.0})
    data = Data(
        source=_random_text(model.vocabulary, document),
        tokenizer=f"integers:{model.vocabulary - 128}",  # the rest is room for sentinels and other special tokens
        length=length,
        source_length=source_length,
        batch=batch,
    )
    return Experiment(
        model=model,
        objectives=(objective,),
        data=data,
        optimizer=Optimizer(learning_rate=1e-4),
        schedule=Schedule(steps=100_000),
        step=Step(compute_dtype="float32" if compute == "float32" else "bfloat16"),
    )


def _tiny(width: int, depth: int, heads: int, length: int, vocabulary: int) -> Experiment:
    model = replace_fields(
        families.GPT2,
        {
            "width": width,
            "depth": depth,
            "vocabulary": vocabulary,
            "attention.heads": heads,
            "positions.max_length": length,
        },
    )
    return _case(model, Causal(), length, 12, 16 * length, "float32")


def _gpt2(objective: Objective, document: int) -> Experiment:
    return _case(replace(families.gpt2("124m"), vocabulary=50_304), objective, 1024, 64, document)


CASES: dict[str, Callable[[], Experiment]] = {
    "laptop": lambda: _tiny(128, 4, 4, 64, 256),  # nanoGPT's model for laptops
    "small": lambda: _tiny(384, 6, 6, 256, 512),
    "gpt2": lambda: _gpt2(Causal(), 1 << 17),  # nearly every row is one document
    "gpt2_packed": lambda: _gpt2(Causal(), 300),
    "gpt2_prefix": lambda: _gpt2(Prefix(), 1 << 17),
    "llama": lambda: _case(replace(families.llama("1b"), remat="none"), Causal(), 2048, 16, 1 << 17),
    "bert": lambda: _case(replace(families.bert("base"), vocabulary=30_592), Masked(), 512, 128, 1 << 17),
    "t5": lambda: _case(families.t5("base"), SpanCorruption(), 114, 128, 1 << 17, source_length=512),
}


def _random_text(vocabulary: int, document: int) -> str:
    """A source of random documents with that many tokens in all, made once."""
    folder = processes.cache_folder() / f"random-{vocabulary}-{document}"
    if not folder.exists():
        tokens = np.random.default_rng(0).integers(0, vocabulary - 128, (TOKENS // document, document), np.uint32)
        with building(folder) as unfinished:
            np.save(unfinished / "tokens.npy", tokens)
    return f"tokens:{folder}/tokens.npy"
