"""Optimizers and learning rate schedules, composed from optax by what each parameter is.

What a parameter is follows from its logical axes, not from its rank: layers are stacked and heads are axes of their
own, so the bias of a query projection, `[layers, heads, head]`, is of rank 3 and yet a vector.
"""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from research import config
from research.errors import InputError

Axes = tuple[str | None, ...]
FEATURES = (("embed",), ("residual",), ("mlp",), ("heads", "head"), ("kv_heads", "head"))  # what kernels map between
MUON_RMS = 0.2  # of an update: that of AdamW, so that one learning rate and weight decay serve both


def schedule(schedule: config.Schedule, peak: float) -> optax.Schedule:
    """The learning rate of each step, counted from 0. The step after `warmup` others have the peak behind it, and the
    last one has exactly `final * peak`; no step is taken at a rate of 0 before the end.

    `cosine` and `linear` fall from the warmup to the end. `stable_decay` stays at the peak and falls linearly at the
    end (Hägele et al. 2024). `inverse_square_root` falls as `(warmup / step) ** 0.5` (Vaswani et al. 2017).

    Raises:
      InputError: if `warmup` and `decay` together are longer than the run.
    """
    steps, warmup, last = schedule.steps, schedule.warmup, schedule.final * peak
    rest = max(1, steps - warmup)
    match schedule.name:
        case "cosine":
            fall = optax.cosine_decay_schedule(peak, rest, alpha=schedule.final)
        case "linear":
            fall = optax.linear_schedule(peak, last, rest)
        case "stable_decay":
            decay = min(steps // 5, rest) if schedule.decay is None else schedule.decay
            if warmup + decay > steps:
                raise InputError(
                    f"schedule.decay: {decay} steps do not fit after the warmup of {warmup} into the run's {steps}; "
                    f"at most {steps - warmup} do"
                )
            fall = optax.linear_schedule(peak, last, max(1, decay), transition_begin=steps - warmup - decay)
        case "inverse_square_root":
            begin = max(1, warmup)

            def fall(count):
                return peak * (begin / (count + begin)) ** 0.5

    rise = optax.linear_schedule(0.0, peak, warmup) if warmup else fall
    whole = optax.join_schedules([rise, fall], [warmup])
    return lambda step: whole(step + 1)


def optimizer(
    config: config.Optimizer, schedule: optax.Schedule, axes: Any, width_ratio: float = 1.0
) -> optax.GradientTransformation:
    """The update of each step: clip, scale by the optimizer's own rule, decay, and multiply by the learning rate.

    Decay is decoupled and multiplied by the learning rate for every optimizer alike (optax's own `adafactor` would not
    multiply it). Adafactor is that of T5: no momentum, updates relative to the size of the parameter; both its sizes
    are over the whole stack of layers.

    Args:
      config: which, and its constants; `learning_rate` is in `schedule`.
      schedule: learning rate by step.
      axes: logical axes of each parameter, a tree of tuples.
      width_ratio: by what the updates of kernels between layers are divided (`Model.width_ratio`), before they decay.
    """
    decays = jax.tree.map(is_matrix, axes, is_leaf=_is_axes)
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        _rule(config, axes) if width_ratio == 1 else optax.chain(_rule(config, axes), _slower(axes, width_ratio)),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
        optax.scale_by_learning_rate(schedule),
    )


def is_matrix(axes: Axes) -> bool:
    """Whether these are the axes of a kernel or a table, whatever is stacked, and not of a norm or a bias."""
    return len(_grouped(axes)) > 1


def _rule(config: config.Optimizer, axes: Any) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(config.b1, config.b2, config.epsilon)
    match config.name:
        case "adamw":
            return adam
        case "lion":
            return optax.scale_by_lion(config.b1, config.b2)
        case "adafactor":
            return optax.chain(
                optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
            )
        case "muon":
            dimensions = jax.tree.map(_muon_dimensions, axes, is_leaf=_is_axes)
            labels = jax.tree.map(lambda each: "adamw" if each is None else "muon", dimensions, is_leaf=_is_dimensions)
            return optax.partition({"muon": _muon(config, dimensions), "adamw": adam}, labels)


def _slower(axes: Any, width_ratio: float) -> optax.GradientTransformation:
    """Divides the updates of kernels between layers (muP; see `config.Mup`)."""
    factors = jax.tree.map(
        lambda each: 1.0 if _muon_dimensions(each) is None else 1 / width_ratio, axes, is_leaf=_is_axes
    )
    return optax.stateless(lambda updates, _: jax.tree.map(lambda update, by: update * by, updates, factors))


def _muon(config: config.Optimizer, dimensions: Any) -> optax.GradientTransformation:
    """Muon (Jordan 2024) with updates scaled by `0.2 * max(fan_in, fan_out) ** 0.5` (Liu et al. 2025, equation 4)."""
    dimensions = jax.tree.map(
        lambda each: optax.MaskedNode() if each is None else each, dimensions, is_leaf=_is_dimensions
    )

    def scale(update: jax.Array, numbers: MuonDimensionNumbers) -> jax.Array:
        fans = [1, 1]
        for side, each in enumerate((numbers.reduction_axis, numbers.output_axis)):
            for axis in each:
                fans[side] *= update.shape[axis]
        return MUON_RMS * max(fans) ** 0.5 * update

    return optax.chain(
        scale_by_muon(beta=config.b1, eps=config.epsilon, weight_dimension_numbers=dimensions),
        optax.stateless(lambda updates, _: jax.tree.map(scale, updates, dimensions)),
    )


def _muon_dimensions(axes: Axes) -> MuonDimensionNumbers | None:
    """Which axes of a kernel are its input and its output; layers are orthogonalised one by one. None for tables
    (embeddings, positions, the output layer) and for vectors."""
    groups = _grouped(axes)
    if len(groups) != 2 or any(tuple(axes[axis] for axis in group) not in FEATURES for group in groups):
        return None
    return MuonDimensionNumbers(*groups)


def _grouped(axes: Axes) -> list[tuple[int, ...]]:
    """Positions of the axes without the stack of layers, the two axes of attention heads as one."""
    groups: list[tuple[int, ...]] = []
    for position, name in enumerate(axes):
        if name == "head" and position and axes[position - 1] in ("heads", "kv_heads"):
            groups[-1] += (position,)
        elif name != "layers":
            groups.append((position,))
    return groups


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple)


def _is_dimensions(node: Any) -> bool:
    return node is None or isinstance(node, MuonDimensionNumbers)
