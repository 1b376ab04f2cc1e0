"""Generation speed: our loop, and `generate` of `transformers` with a static cache, compiled; both greedy."""

import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import research
from research import interop
from research.benchmarks.pairs import Made, Measured
from research.inference.generation import Prompt, Sampling, generate
from research.runtime import processes

PROMPT = 16  # tokens


def ours(checkpoint: str, batch: int, tokens: int) -> Made:
    """A unit of work is one batch."""
    began = time.monotonic()
    processes.configure_jax()
    lm = research.load(checkpoint)
    prompts = [Prompt(row.tolist()) for row in _prompts(batch, lm.tokenizer.size)]
    sampling = Sampling(tokens=tokens, least=tokens)

    def run() -> list[list[int]]:
        return generate(lm.config, lm.params, lm.tokenizer, prompts, sampling, [])

    compiling = time.monotonic()
    said = run()
    facts = {"compiling": time.monotonic() - compiling, "first_step": time.monotonic() - began, "said": said}
    return facts, lambda count: _timed(run, count, batch * tokens)


def theirs(checkpoint: str, batch: int, tokens: int) -> Made:
    """The same weights, exported by us; `forward` is compiled, and the cache static, so that it compiles once."""
    import torch
    import transformers

    began = time.monotonic()
    transformers.logging.set_verbosity_error()
    opened = interop.open_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, "model")
        with jax.default_device(jax.devices("cpu")[0]):
            interop.write(exported, opened.model, opened.params(), None)
        model = transformers.AutoModelForCausalLM.from_pretrained(exported, attn_implementation="sdpa").eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    model.generation_config.cache_implementation = "static"
    model.forward = torch.compile(model.forward, mode="reduce-overhead" if device == "cuda" else "default")
    prompts = torch.tensor(_prompts(batch, opened.tokenizer.size), dtype=torch.long, device=device)
    special = [number for number in opened.tokenizer.vocabulary.special if number < opened.model.vocabulary]

    def run() -> list[list[int]]:
        with torch.inference_mode():
            made = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                eos_token_id=None,
                pad_token_id=0,
                suppress_tokens=special,
            )
        return made[:, prompts.shape[1] :].tolist()

    compiling = time.monotonic()
    said = run()
    facts = {"compiling": time.monotonic() - compiling, "first_step": time.monotonic() - began, "said": said}
    return facts, lambda count: _timed(run, count, batch * tokens)


def _timed(run, count: int, tokens: int) -> Measured:
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return {
        "rate": count * tokens / sum(seconds),
        "step": float(np.median(seconds)),
        "spread": float(np.subtract(*np.percentile(seconds, [90, 10]))),
        "memory": processes.peak_memory(),
    }


def _prompts(batch: int, vocabulary: int) -> np.ndarray:
    """Random ordinary tokens: equal lengths, so that the peer needs no padding."""
    return np.random.default_rng(0).integers(vocabulary // 4, vocabulary, (batch, PROMPT))
