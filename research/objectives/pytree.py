"""Registers batches with JAX, of which objectives otherwise know nothing: to it, a batch is its arrays, and `causal` a
part of every program. For its effect alone, imported by all that hand batches to JAX."""

import jax

from research.objectives.batch import ARRAYS, Batch

jax.tree_util.register_dataclass(Batch, data_fields=[*ARRAYS, "source"], meta_fields=["causal"])
