"""How far our numbers are from those of `transformers` (torch on the CPU, float32), family by family.

python -m tests.interop.parity            prints the table of the README
python -m tests.interop.parity qwen3 …    only these rows
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
import transformers

import research
from research import interop, models
from research.inference.generation import Sampling
from research.interop import huggingface, mapping
from research.objectives import Batch
from tests.interop import peers, smollm2, tokenizer_peers

NEW = 64  # tokens of a greedy continuation
PROMPTS = ("Welcome to New York", "The capital of France is", "def fibonacci(n):\n", "Once upon a time")


class Parity(NamedTuple):
    """What was measured of one peer."""

    family: str
    objective: str
    logits: float  # largest difference, relative to the largest logit
    loss: float  # difference in nats
    exported: float  # as `logits`, between the peer and what it makes of our export
    greedy: bool | None  # continuations of 64 tokens are identical; None: not compared
    ids: bool  # a small tokenizer of the family, saved by transformers, gives identical ids on `texts.TEXTS`


def measure(name: str) -> Parity:
    """Saves a peer, imports it, compares, exports it, and lets `transformers` load that."""
    peer = peers.peer(name)
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(f"{folder}/theirs")
        model, names, tensors = huggingface.read(Path(folder, "theirs"))
        params = mapping.load_params(model, names, tensors)
        spoken = tokenizer_peers.save(name, Path(folder, "tokenizer"))
        masked, headless = peers.is_masked(name), "without head" in name
        other = tokenizer_peers.differ(
            huggingface.read_tokenizer(Path(folder, "tokenizer")), spoken, ends=masked or model.encoder_depth > 0
        )
        huggingface.write(Path(folder, "ours"), model, params, None)
        written = json.loads(Path(folder, "ours", "config.json").read_text(encoding="utf-8"))
        family = written["model_type"]
        again = getattr(transformers, written["architectures"][0]).from_pretrained(f"{folder}/ours").eval()
    batch = peers.batch(name, model.vocabulary)
    if not masked:
        batch = continued(peer, batch)
    apply = models.hidden if headless else models.logits
    ours = np.asarray(jax.jit(partial(apply, model))(params, batch))
    with torch.no_grad():
        theirs, back = (peers.outputs(one, batch) for one in (peer, again))
    losses = [0.0, 0.0] if headless else [float(peers.loss(each, batch)) for each in (torch.tensor(ours), theirs)]
    likeliest = ours.argmax(-1)[0, -NEW - 1 : -1]
    return Parity(
        family=name if name == family else f"{name} (`{family}`)",
        objective="span corruption" if model.encoder_depth else "masked" if masked else "causal",
        logits=relative(ours, theirs.numpy()),
        loss=abs(losses[0] - losses[1]),
        exported=relative(back.numpy(), theirs.numpy()),
        # with dynamic scaling, transformers keeps keys that were rotated as of a shorter row
        greedy=None if masked or "dynamic" in name else np.array_equal(likeliest, batch.tokens[0, -NEW:]),
        ids=not other,
    )


def measure_file(path: str) -> Parity:
    """As `measure`, of a real causal model in a GGUF file and on texts."""
    model, folder, name = research.load(path), Path(path).parent, Path(path).name
    spoken = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).eval()
    with tempfile.TemporaryDirectory() as exported:
        interop.write(Path(exported, "new"), model.config, model.params, model.tokenizer)
        again = transformers.AutoModelForCausalLM.from_pretrained(f"{exported}/new").eval()
    rows = []
    for prompt in PROMPTS:
        ids = torch.tensor([spoken(prompt, add_special_tokens=False).input_ids])
        with torch.no_grad():
            theirs, back = (one(ids).logits[0] for one in (peer, again))
            said = peer.generate(ids, max_new_tokens=NEW, do_sample=False, attention_mask=torch.ones_like(ids))
        ours = model.logits([prompt])[0][: ids.shape[1]]
        one, other = (
            float(torch.nn.functional.cross_entropy(each[:-1], ids[0, 1:])) for each in (torch.tensor(ours), theirs)
        )
        continued = model.generate(prompt, Sampling(tokens=NEW, temperature=0))
        rows.append(
            (
                relative(ours, theirs.numpy()),
                abs(one - other),
                relative(back.numpy(), theirs.numpy()),
                continued == spoken.decode(said[0, ids.shape[1] :], skip_special_tokens=True),
            )
        )
    logits, loss, exports, greedy = zip(*rows, strict=True)
    ids_differ = tokenizer_peers.differ(model.tokenizer, spoken, ends=False)
    return Parity(name, "causal", max(logits), max(loss), max(exports), all(greedy), not ids_differ)


def continued(peer: transformers.PreTrainedModel, batch: Batch) -> Batch:
    """The batch with the peer's greedy continuations as its tokens. If each token of them is the likeliest one here
    too, given those before it, then the continuations are identical."""
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    read = batch.tokens[:, :5] if batch.source is None else batch.source.tokens
    prompt = torch.tensor(read, dtype=torch.long)
    tokens = peer.generate(prompt, attention_mask=torch.ones_like(prompt), **settings).numpy().astype(np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    ones = np.ones_like(tokens)
    return Batch(tokens, np.roll(tokens, -1), ones.astype(np.float32), positions, ones, positions, batch.source)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main() -> None:
    print("| family | objective | import: logits | loss | export: logits | 64 greedy tokens | token ids |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    file, _ = smollm2.fetched()
    for name in sys.argv[1:] or [*peers.PEERS, *([file] if file else [])]:
        row = measure_file(name) if name.endswith(".gguf") else measure(name)
        greedy, ids = ({None: "", True: "identical", False: "differ"}[each] for each in (row.greedy, row.ids))
        loss = "" if "without head" in name else f"{row.loss:.0e}"
        print(f"| {row.family} | {row.objective} | {row.logits:.0e} | {loss} | {row.exported:.0e} | {greedy} | {ids} |")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    main()
