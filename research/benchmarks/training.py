"""Training speed: our step as `train` runs it, and the same model in `transformers` on torch."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research import config, data, interop, models, sharding
from research.benchmarks.pairs import Made, Measured
from research.config import Experiment, replace_fields
from research.interop import config_json
from research.objectives import Batch
from research.runs import loop
from research.runtime import processes
from research.training import flops, state

BATCHES = 8  # that the peer has in its memory, in turn


def ours(experiment: Experiment) -> Made:
    """Batches are loaded and the metrics of the step before fetched while a step runs, as in `train`."""
    began = time.monotonic()
    processes.configure_jax()
    experiment, corpus = opened(experiment)
    programs = loop.compiled_steps(experiment)
    run = state.create(experiment.model, programs.optimizer, experiment.seed, programs.layout, programs.frozen)
    batches = loaded(corpus)
    first = sharding.shard_batch(programs.layout, next(batches))
    compiling = time.monotonic()
    step = programs.train_step.lower(run, first).compile()  # type: ignore[attr-defined]
    compiled = time.monotonic()
    run, metrics = step(run, first)
    facts = {
        "first_loss": float(metrics.loss),
        "parameters": models.size(run.params),
        "compiling": compiled - compiling,
        "first_step": time.monotonic() - began,
        "tokens": experiment.data.batch * experiment.data.length,
        "flops": experiment.data.batch * flops.train_flops(experiment.model, experiment.data),
        "peak": flops.peak_flops(),
        "temporaries": step.memory_analysis().temp_size_in_bytes,
    }

    def turn(count: int) -> Measured:
        nonlocal run, metrics
        waited, unpadded = 0.0, 0
        seconds: list[float] = []
        pending, previous = None, time.perf_counter()
        for _ in range(count):
            begin = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - begin
            unpadded += _unpadded(batch)
            run, metrics = step(run, sharding.shard_batch(programs.layout, batch))
            if pending is not None:
                jax.device_get(pending)
                previous = _lap(seconds, previous)
            pending = metrics
        jax.device_get(metrics)
        _lap(seconds, previous)
        return _measured(seconds, unpadded, facts) | {"waiting": waited / sum(seconds)}

    return facts, turn


def theirs(experiment: Experiment, precision: str) -> Made:
    """`transformers` on torch: SDPA, `torch.compile`, fused AdamW (or torch's own Muon), from the same weights, on the
    same batches, whose packed documents see each other there, which costs it nothing. On a GPU SDPA is cuDNN's."""
    jax.config.update("jax_platforms", "cpu")  # only to make the weights
    import torch
    import transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel

    began = time.monotonic()
    transformers.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if precision == "bfloat16" else "highest")
    experiment, corpus = opened(experiment)
    experiment = replace(experiment, model=replace_fields(experiment.model, {"dropout": 0.0, "attention.dropout": 0.0}))
    settings, _ = config_json.write(experiment.model)
    with tempfile.TemporaryDirectory() as folder:
        params = models.init(experiment.model, state.key(experiment.seed, 0, "parameters"))
        interop.write(Path(folder, "model"), experiment.model, params, None)
        architecture = getattr(transformers, settings["architectures"][0])
        model = architecture.from_pretrained(Path(folder, "model"), attn_implementation="sdpa").to(device).train()
    optimizers = _torch_optimizers(model, experiment.optimizer)
    compiled = torch.compile(model)
    batches = itertools.cycle([_inputs(corpus.batch(step), settings, device) for step in range(BATCHES)])

    def step() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = compiled(**next(batches), use_cache=False).loss
        loss.backward()
        if experiment.optimizer.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), experiment.optimizer.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def attending() -> Any:
        backends = (
            [SDPBackend.CUDNN_ATTENTION] if device == "cuda" and experiment.model.positions.kind != "relative" else None
        )
        return sdpa_kernel(backends) if backends else torch.enable_grad()

    with attending():
        compiling = time.monotonic()
        first_loss = float(step())
    facts = {
        "first_loss": first_loss,
        "parameters": sum(each.numel() for each in model.parameters()),
        "compiling": time.monotonic() - compiling,
        "first_step": time.monotonic() - began,
        "tokens": experiment.data.batch * experiment.data.length,
        "flops": experiment.data.batch * flops.train_flops(experiment.model, experiment.data),
    }
    shown = [_unpadded(corpus.batch(step)) for step in range(BATCHES)]

    def turn(count: int) -> Measured:
        seconds: list[float] = []
        previous, pending = time.perf_counter(), None
        with attending():
            for _ in range(count):
                loss = step()
                if pending is not None:
                    float(pending)
                    previous = _lap(seconds, previous)
                pending = loss
            float(loss)
        _lap(seconds, previous)
        measured = _measured(seconds, count * sum(shown) / BATCHES, facts)
        if device == "cuda":
            measured["memory"] = torch.cuda.max_memory_allocated()
        return measured

    return facts, turn


def opened(experiment: Experiment) -> tuple[Experiment, data.Corpus]:
    """The experiment with its model resolved, and its data."""
    corpus = data.open(experiment)
    longest = max(experiment.data.length, experiment.data.source_length or 0)
    return replace(experiment, model=config.resolve(experiment.model, corpus.vocabulary.size, longest)), corpus


def loaded(corpus: data.Corpus) -> Iterator[Batch]:
    """The batches of all steps, prepared ahead."""
    with corpus.loader(0, 2**40) as batches:
        for _, batch in batches:
            yield batch


def _lap(seconds: list[float], previous: float) -> float:
    now = time.perf_counter()
    seconds.append(now - previous)
    return now


def _measured(seconds: list[float], unpadded: float, facts: Measured) -> Measured:
    steps = np.array(seconds)
    return {
        "rate": len(steps) * facts["tokens"] / steps.sum(),
        "unpadded_rate": unpadded / steps.sum(),
        "step": float(np.median(steps)),
        "spread": float(np.subtract(*np.percentile(steps, [90, 10]))),
        "memory": processes.peak_memory(),
    }


def _unpadded(batch: Batch) -> int:
    sides = [batch] if batch.source is None else [batch, batch.source]
    return sum(int((np.asarray(side.segments) > 0).sum()) for side in sides)


def _inputs(batch: Batch, settings: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch as a model of `transformers` takes it; places without weight are not trained there either."""
    import torch

    def put(array: np.ndarray) -> Any:
        return torch.tensor(np.asarray(array), dtype=torch.long, device=device)

    labels = put(np.where(batch.weights > 0, batch.targets, -100))
    if batch.source is not None:
        return {"input_ids": put(batch.source.tokens), "decoder_input_ids": put(batch.tokens), "labels": labels}
    if settings["architectures"][0].endswith("MaskedLM"):
        return {"input_ids": put(batch.tokens), "labels": labels}
    shifted = torch.cat([torch.full_like(labels[:, :1], -100), labels[:, :-1]], dim=1)  # it shifts them back
    return {"input_ids": put(batch.tokens), "position_ids": put(batch.positions), "labels": shifted}


def _torch_optimizers(model: Any, chosen: config.Optimizer) -> list[Any]:
    """The same optimizer; for adafactor and lion, which torch lacks or has only slow, fused AdamW."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    muon = chosen.name == "muon"
    others = [p for p in model.parameters() if not muon or all(p is not matrix for matrix in matrices)]
    adamw: Callable[..., Any] = torch.optim.AdamW
    made = [adamw(others, lr=chosen.learning_rate, betas=(chosen.b1, chosen.b2), eps=chosen.epsilon, fused=True)]
    if muon:
        made.append(torch.optim.Muon(matrices, lr=chosen.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return made
