"""What a run starts from: parameters of another run, of a Hugging Face checkpoint, or of a GGUF file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from research import config, interop, models
from research.config import Model
from research.data import tokenizers
from research.data.tokenizers import Tokenizer
from research.models import Params, adapters
from research.runtime import files
from research.sharding import Layout, parameter_shardings
from research.training import checkpoint, state

# fields of a model that say how it is trained
KEPT = ("dropout", "attention.dropout", "attention.implementation", "unroll", "remat", "lora", "quantization_bits")
Finish = Callable[[str, jax.Array], Mapping[str, jax.Array]]  # what is kept of a parameter, by path


@dataclass(frozen=True)
class Initial:
    """A checkpoint of any kind, of which only descriptions are read."""

    model: Model  # resolved, without adapters
    tokenizer: Tokenizer
    read: Callable[[Layout, Finish], Params]

    def adapted(self, chosen: Model) -> Model:
        """The checkpoint's model, trained as the chosen one."""
        return config.replace_fields(self.model, {path: config.get_field(chosen, path) for path in KEPT})

    def params(self, model: Model, layout: Layout, seed: int) -> Params:
        """The parameters of `model`, which is from `adapted`, each read straight to its place: kernels quantised one by
        one, adapters new and without effect."""
        leaves = models.flatten(self.read(layout, lambda path, array: adapters.stored(model, path, array)))
        wanted = models.flatten(parameter_shardings(layout, models.axes(model)))
        new = {path: where for path, where in wanted.items() if adapters.is_adapter(path)}
        created = jax.jit(lambda: adapters.create(model, state.key(seed, 0, "parameters")), out_shardings=new)()
        return jax.device_put(models.unflatten(leaves | created), models.unflatten(wanted))


def describe(source: str) -> Initial:
    """Raises InputError if the source is missing, damaged, or something that the stack cannot express."""
    folder = files.expanded(source)
    if (folder / "experiment.json").exists():
        trained = config.load(folder / "experiment.json").model
        tokenizer = tokenizers.load(str(folder / "tokenizer"))
        return Initial(adapters.plain(trained), tokenizer, partial(_of_run, folder, trained))
    foreign = interop.open_checkpoint(source)

    def read(layout: Layout, finish: Finish) -> Params:
        return foreign.params(parameter_shardings(layout, models.axes(foreign.model)), finish)

    return Initial(foreign.model, foreign.tokenizer, read)


def _of_run(folder: Path, model: Model, layout: Layout, finish: Finish) -> Params:
    """A run's last parameters, its adapters merged."""
    shardings = models.flatten(parameter_shardings(layout, models.axes(model)))
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        for path, leaf in adapters.shapes(model).items()
    }
    _, merged = adapters.merge(model, checkpoint.restore_params(folder, models.unflatten(like)))
    finished = [finish(path, leaf) for path, leaf in models.flatten(merged).items()]
    return models.unflatten({path: leaf for part in finished for path, leaf in part.items()})
