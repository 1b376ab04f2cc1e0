"""Where each of our parameters lies in foreign checkpoints, as data.

A table maps our modules to theirs, with `{layer}` for the number of a layer; `a#1/3` is the second of three modules
whose outputs lie side by side in what module `a` puts out, and `a#1/3h` of three that do so within each head. Leaves
follow a rule: our `kernel` and `scale` are their `weight`, our `bias` is their `bias`; torch's Linear keeps a kernel as
`[out, in]`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

WRAPPERS = ("_orig_mod", "module", "model")  # before names, by torch.compile, DistributedDataParallel and Lightning
BUFFERS = (  # which some versions of every family keep, and which follow from the config
    r"(.*\.)?rotary_emb\.inv_freq",
    r"(.*\.)?embeddings\.(position_ids|token_type_ids)",
    r"(.*\.)?masked_bias",
)


@dataclass(frozen=True)
class Names:
    """How a family of checkpoints calls its tensors."""

    modules: dict[str, str]  # our module -> theirs
    prefix: str = ""  # of the names of the model without its head; files may lack it
    transposed: bool = True  # kernels are kept as [out, in]
    interleaved: tuple[str, ...] = ()  # our modules whose heads hold the pairs that rotate as neighbours
    offset: float = 0.0  # what is added to the scale of a norm (Gemma keeps its difference from 1)
    absent: tuple[str, ...] = ()  # tensors that the family does not have because they would change nothing
    copies: tuple[tuple[str, str], ...] = ()  # (tensor, its copy): a file may hold either or both
    dropped: tuple[str, ...] = ()  # patterns of tensors that are no part of the language model


class Place(NamedTuple):
    """Where one of our parameters lies: in which tensor, as which of the modules in it, and how it is turned."""

    name: str
    transposed: bool
    part: int
    per_head: bool
    interleaved: bool
    offset: float


def place(names: Names, path: str) -> Place | None:
    """The place of our parameter `path`, as "decoder/layers/mlp/up/kernel"; None if the family has no such module."""
    module, _, leaf = path.rpartition("/")
    if leaf not in ("kernel", "scale", "bias"):
        module, leaf = path, "kernel" if path == "output" else ""
    their = names.modules.get(module)
    if their is None:
        return None
    name, _, part = their.partition("#")
    suffix = "bias" if leaf == "bias" or path == "output_bias" else "weight"
    transposed = leaf == "kernel" and (names.transposed or path == "output")
    number, per_head = int(part.partition("/")[0] or 0), part.endswith("h")
    offset = names.offset if leaf == "scale" else 0.0
    return Place(f"{name}.{suffix}", transposed, number, per_head, module in names.interleaved, offset)


def canonical(names: Names, name: str, known: Collection[str]) -> str:
    """The tensor's name as the tables have it: one of the `known`, if it can be made one. Files of a model without its
    head lack the prefix, tools that wrap a model leave their own, and the oldest BERT files call the scale and bias of
    a norm gamma and beta."""
    stem, dot, leaf = name.replace("_orig_mod.", "").rpartition(".")
    full = stem + dot + {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)
    roots = {their.partition(".")[0] for their in names.modules.values()}
    bare = full
    while True:
        found = next((one for one in (bare, names.prefix + bare) if one in known), None)
        wrapper, _, rest = bare.partition(".")
        if found is not None or wrapper not in WRAPPERS or not rest:
            break
        bare = rest
    if found is not None:
        return found
    while full.partition(".")[0] in WRAPPERS and full.partition(".")[0] not in roots:
        full = full.partition(".")[2]
    return full if full.partition(".")[0] in roots else names.prefix + full


def dropped(names: Names) -> re.Pattern[str]:
    """What tensors are passed over."""
    return re.compile("|".join((*names.dropped, *BUFFERS)))


def layers(ours: str, theirs: str, modules: dict[str, str]) -> dict[str, str]:
    """The rows of a stack ("decoder" or "encoder"), of which each layer's modules begin with `theirs`."""
    return {f"{ours}/layers/{our}": theirs + their for our, their in modules.items()}


GGUF = Names(  # of the architectures llama, qwen2 and qwen3; llama interleaves, as Meta's own files do
    modules={
        "embedding": "token_embd",
        "decoder/norm": "output_norm",
        "output": "output",
        **layers(
            "decoder",
            "blk.{layer}.",
            {
                "attention_norm": "attn_norm",
                "attention/query": "attn_q",
                "attention/query_norm": "attn_q_norm",
                "attention/key": "attn_k",
                "attention/key_norm": "attn_k_norm",
                "attention/value": "attn_v",
                "attention/out": "attn_output",
                "mlp_norm": "ffn_norm",
                "mlp/gate": "ffn_gate",
                "mlp/up": "ffn_up",
                "mlp/down": "ffn_down",
            },
        ),
    },
    copies=(("token_embd.weight", "output.weight"),),
    dropped=(r"rope_freqs\.weight",),  # Llama 3.1's scaling, which the metadata give as well
)
