"""Pruned gradients = full gradients = finite differences, on any network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparseplan.builder import init_parameters
from sparseplan.network import Network
from sparseplan.ops import infos, loss_def, op_def
from sparseplan.ops.base import Array
from sparseplan.run import gradients, reference
from sparseplan.run.checks import stored_parameters
from sparseplan.run.runner import random_data
from sparseplan.steps import TrainingOptions
from sparseplan.testing.peers import trainable
from sparseplan.testing.theorems import require

#: losses without a kink, so that differences tell their slope
SMOOTH = ("mse", "cross_entropy")
#: step of the differences, and how far a gradient may be off, in parts of what it is measured against
STEP, CLOSE = 1e-6, 1e-5
#: what float32 may lose over a network, in the same parts
SINGLE = 2e-4


def generic_parameters(network: Network, seed: int) -> dict[str, Array]:
    """Normal parameters (float64) scaled by fan-in: none is zero, so no activation sits on a kink for good.

    Statistics, which are never updated, are as they are to begin with.
    """
    rng = np.random.default_rng([seed, 2])
    usual = init_parameters(network, seed)
    arrays: dict[str, Array] = {}
    for p in network.parameters:
        if not all(op_def(op.kind).updatable(slot) for op, slot in network.users[p]):
            arrays[p] = usual[p].astype(np.float64)
            continue
        shape = network.tensor[p].shape
        arrays[p] = rng.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))
    return arrays


def loss_of(network: Network, params: Mapping[str, Array], x: Mapping[str, Array], target: Array, loss: str) -> float:
    """The loss by the ops' kernels alone, in the precision of the arrays."""
    at, table = dict(x), infos(network)
    for op in network.ops:
        slots = {slot: params[p] for slot, p in op.params.items()}
        y = op_def(op.kind).forward(table[op.name], [at[t] for t in op.inputs], slots)
        at[op.output] = y if op.inputs else np.repeat(y, len(target), axis=0)
    definition = loss_def(loss)
    return definition.value_and_grad(at[network.outputs[0]], target, dict(definition.defaults))[0]


def check_full_gradients(network: Network, seed: int = 0, batch: int = 1) -> int:
    """The reference's gradient of every parameter, against central differences in float64 along a random direction.

    Where the loss has a kink within the step (its one-sided slopes differ), the differences tell nothing and that
    parameter is left out. Returns how many parameters were compared.
    """
    loss, (x32, target) = _data(network, batch, seed)
    x = {n: a if a.dtype.kind == "i" else a.astype(np.float64) for n, a in x32.items()}
    target = target if target.dtype.kind == "i" else target.astype(np.float64)
    params = generic_parameters(network, seed)
    found = reference(network, params, x, target, loss).gradients
    rng = np.random.default_rng([seed, 3])
    here = loss_of(network, params, x, target, loss)
    compared = 0
    for p in trainable(network):
        direction = rng.standard_normal(params[p].shape)
        direction /= np.linalg.norm(direction)
        there = [loss_of(network, {**params, p: params[p] + h * direction}, x, target, loss) for h in (STEP, -STEP)]
        slopes = (there[0] - here) / STEP, (here - there[1]) / STEP
        size = max(float(np.linalg.norm(found[p])), abs(slopes[0]), abs(slopes[1]), abs(here), 1e-3)
        if abs(slopes[0] - slopes[1]) > 50 * CLOSE * size:
            continue
        compared += 1
        by_differences, analytic = (slopes[0] + slopes[1]) / 2, float(np.sum(found[p] * direction))
        require(
            abs(by_differences - analytic) <= CLOSE * size,
            f"gradient of {p!r} in network {network.name!r} along a direction: {analytic}, by differences "
            f"{by_differences} (loss {loss}, seed={seed}, batch={batch})",
        )
    return compared


def check_pruned_gradients(network: Network, update: Mapping[str, float], seed: int = 0, batch: int = 1) -> None:
    """The gradients of an update set's own schedule equal those of the full backward pass.

    Those of parameters updated in part equal the leading part.
    """
    loss, (x, target) = _data(network, batch, seed)
    drawn = {p: a.astype(np.float32) for p, a in generic_parameters(network, seed).items()}
    params = stored_parameters(network, drawn, TrainingOptions("fp32"))  # int8 ones in quanta
    full = reference(network, params, x, target, loss)
    value, pruned = gradients(network, params, x, target, loss, update=update)
    about = f"network {network.name!r}, update={dict(update)}, loss {loss}, seed={seed}, batch={batch}"
    require(set(pruned) == set(update), f"gradients of {sorted(pruned)} for updates of {sorted(update)}: {about}")
    require(_close(value, full.loss, abs(full.loss)), f"loss pruned={value}, full={full.loss}: {about}")
    for p, g in pruned.items():
        whole = full.gradients[p]
        part = whole[tuple(slice(0, n) for n in g.shape)]
        gap, size = float(np.abs(g - part).max(initial=0)), float(np.abs(whole).max(initial=0))
        require(_close(gap, 0, size), f"gradients of {p!r} differ by {gap} of {size}: {about}")


def _close(a: float, b: float, size: float) -> bool:
    return abs(a - b) <= SINGLE * max(size, 1e-6)


def _data(network: Network, batch: int, seed: int) -> tuple[str, tuple[dict[str, Array], Any]]:
    """A smooth loss that the network's output allows, and data for it."""
    vector = len(network.tensor[network.outputs[0]].shape) == 1
    loss = SMOOTH[1] if vector and seed % 2 else SMOOTH[0]
    return loss, random_data(network, loss, batch, seed)
