"""How a PyTorch module is made to follow a plan. Stands alone: ``export`` copies this text into its files.

Rows of a table are (parameter, shape, axis, keep, layout): the first ``keep`` entries along ``axis`` are updated,
all of them where both are None; shape and axis are the network's. ``layout`` is the permutation that leads from the
module's axes to the network's, or None.
"""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class MismatchError(ValueError):
    """A module does not have the parameters that the plan updates."""


@dataclass(frozen=True)
class Handle:
    """A module that follows a plan.

    Attributes:
        table: the rows that it follows.
        updated: number of elements that training changes.
        frozen: number of elements that it leaves alone.
    """

    table: tuple[Any, ...]
    updated: int
    frozen: int
    undo: list[Callable[[], Any]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Let the module be as it was: hooks gone, requires_grad as before. Weights stay as trained."""
        while self.undo:
            self.undo.pop()()


def _axis(row: Any, own: Any) -> int:
    """The axis of the module's parameter that the row cuts."""
    name, shape, axis, _, layout = row
    if layout is not None:
        return int(layout[axis])
    if tuple(own) == tuple(shape):
        return int(axis)
    long, long_own = [i for i, n in enumerate(shape) if n > 1], [i for i, n in enumerate(own) if n > 1]
    if axis in long and [shape[i] for i in long] == [own[i] for i in long_own]:
        return long_own[long.index(axis)]
    raise MismatchError(
        f"parameter {name!r} has shape {tuple(own)} in the module and {tuple(shape)} in the plan, which cuts axis "
        f"{axis}; give layouts, as the importer tells them"
    )


def _check(table: Any, module: Any) -> list[tuple[Any, Any, Any]]:
    """Parameters of the module by name, and rows with the axis of theirs."""
    known = dict(module.named_parameters(remove_duplicate=False))
    found = []
    for row in table:
        name, shape, _, keep, _ = row
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = "; did you mean " + " or ".join(map(repr, close)) + "?" if close else ""
            raise MismatchError(f"parameter {name!r}, which the plan updates, is not in the module{hint}")
        p = known[name]
        if p.numel() != math.prod(shape):
            raise MismatchError(
                f"parameter {name!r} has shape {tuple(p.shape)} in the module and {tuple(shape)} in the plan; "
                "plan the network of this module"
            )
        found.append((p, None if keep is None else _axis(row, p.shape), keep))
    return found


def _rest(p: Any, axis: int, keep: int) -> Any:
    """The part of a tensor that is not updated."""
    return p.narrow(axis, keep, p.shape[axis] - keep)


def _keep_statistics(module: Any, inputs: Any) -> None:
    module.train(False)


def _masker(axis: int, keep: int) -> Callable[[Any], Any]:
    def mask(grad: Any) -> Any:
        grad = grad.clone()
        _rest(grad, axis, keep).zero_()
        return grad

    return mask


def follow(table: Any, module: Any) -> Handle:
    """Make training of ``module`` change exactly what the table says, in place; returns a Handle.

    * ``requires_grad`` is set: True for updated parameters alone. Gradients of the others are dropped, so that
      optimizers pass them over, weight decay included.
    * Of parameters that are updated in part, gradients are masked by hooks; and since weight decay or momentum from
      before could still move the rest, every optimizer's step puts that rest back as it was, bit for bit.
    * Norms with running statistics stay in eval mode, also after ``module.train()``: plans leave statistics alone.
      Dropout is as you set it; the plan's network has none.
    """
    rows = _check(table, module)
    parts = [(p, axis, keep) for p, axis, keep in rows if keep is not None and keep < p.shape[axis]]
    chosen = {id(p) for p, _, _ in rows}
    handle = Handle(tuple(table), *_counts(module, rows))
    undo = handle.undo
    for p in dict.fromkeys(module.parameters()):
        undo.append(partial(p.requires_grad_, p.requires_grad))
        p.requires_grad_(id(p) in chosen)
        if id(p) not in chosen:
            p.grad = None
    for p, axis, keep in parts:
        undo.append(p.register_hook(_masker(axis, keep)).remove)
    if parts:
        undo += _keepers(parts)
    for m in module.modules():
        if getattr(m, "running_mean", None) is not None:
            undo.append(partial(m.train, m.training))
            undo.append(m.register_forward_pre_hook(_keep_statistics).remove)
            m.train(False)
    return handle


def _counts(module: Any, rows: Any) -> tuple[int, int]:
    cut = {id(p): keep * (p.numel() // p.shape[axis]) for p, axis, keep in rows if keep is not None}
    updated = sum(cut.get(i, p.numel()) for i, p in {id(p): p for p, _, _ in rows}.items())
    return updated, sum(p.numel() for p in dict.fromkeys(module.parameters())) - updated


def _keepers(parts: Any) -> list[Callable[[], Any]]:
    """Hooks around the steps of all optimizers: what is not updated is put back."""
    held: list[Any] = []

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        with torch.no_grad():
            held[:] = [(p, a, k, _rest(p, a, k).clone()) for p, a, k in parts if id(p) in mine]

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for p, axis, keep, rest in held:
                _rest(p, axis, keep).copy_(rest)
        held.clear()

    return [register_optimizer_step_pre_hook(before).remove, register_optimizer_step_post_hook(after).remove]
