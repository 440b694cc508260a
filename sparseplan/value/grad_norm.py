"""Value by squared gradient norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.ops.base import Array
from sparseplan.run.checks import Inputs, check_inputs, check_target, same_length
from sparseplan.run.trainer import Trainer, TrainSettings
from sparseplan.steps import allowed_levels


def squared_gradient_norm(
    network: Network,
    parameters: Mapping[str, Array],
    x: Inputs,
    target: Array,
    choices: Mapping[str, Sequence[float]],
    *,
    loss: str = "l1",
    loss_attrs: Mapping[str, Any] | None = None,
    batch: int = 1,
) -> dict[str, dict[float, float]]:
    """How much each allowed update lowers the loss, to first order.

    A step of SGD with rate ``lr`` on some entries of a parameter lowers the loss by ``lr`` times the
    sum of their squared gradients. The value of a parameter and fraction is that sum over the
    entries which it updates, a mean over batches; values of several parameters add up, as the
    planner's objective does. With ``batch=1`` it is the trace of the empirical Fisher matrix;
    larger batches average gradients first, and so discount what samples disagree about. Choosing
    layers by gradient norm: Lee et al., "Surgical Fine-Tuning", ICLR 2023 (there relative to the
    norm of the weights).

    Args:
        parameters: all of the network's.
        x, target: ``(samples, *shape)``; NaN in a target where there is no label.
        choices: parameter to the fractions of its units that may be updated.
        batch: samples whose mean loss is differentiated at once.

    Returns:
        Parameter to fraction to value, at least 0; a larger fraction is worth no less.

    Raises:
        ProblemError: a parameter that is unknown, or a fraction that cannot be updated.
        DataError: arrays that do not fit the network, or are not finite.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ProblemError(f"batch={batch!r} must be a whole number, at least 1")
    table = infos(network)
    levels: dict[str, tuple[tuple[float, int | None], ...]] = {}
    for p, fractions in choices.items():
        if p not in network.owner:
            raise ProblemError(f"parameter {p!r} is unknown to network {network.name!r}{near(p, network.owner)}")
        op, slot = network.owner[p]
        levels[p] = allowed_levels(table[op.name], slot, fractions)
        for r in fractions:
            if r not in {allowed for allowed, _ in levels[p]}:
                raise ProblemError(f"fraction of {p!r}={r} cannot be updated; could be {[a for a, _ in levels[p]]}")
    arrays, labels = check_inputs(network, x), check_target(network, target, loss)
    count = same_length([*arrays.items(), ("target", labels)])
    settings = TrainSettings(loss, loss_attrs or {}, "sgd")
    trainer = Trainer(network, parameters, dict.fromkeys(levels, 1.0), settings)
    sums = {p: dict.fromkeys((r for r, _ in allowed), 0.0) for p, allowed in levels.items()}
    batches = range(0, count, batch)
    for start in batches:
        part = slice(start, start + batch)
        _, found = trainer.gradients({n: a[part] for n, a in arrays.items()}, labels[part])
        for p, allowed in levels.items():
            op, slot = network.owner[p]
            cut = op_def(op.kind).fraction(table[op.name], slot)
            for r, kept in allowed:
                g = found[p]
                if kept is not None and cut is not None:
                    g = g[(slice(None),) * cut.axis + (slice(0, kept * cut.per_unit),)]
                sums[p][r] += float(np.sum(np.square(g, dtype=np.float64)))
    return {p: {r: total / len(batches) for r, total in by.items()} for p, by in sums.items()}
