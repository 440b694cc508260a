"""Plans for PyTorch: a module that follows one, or a Python file that makes a module do so.

PyTorch is imported when a module is at hand, never by this file itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseplan import atomic
from sparseplan.errors import ExportError, MissingExtraError, PlanError
from sparseplan.network import Network
from sparseplan.ops import infos, loss_def, op_def
from sparseplan.plan import Plan
from sparseplan.version import __version__

if TYPE_CHECKING:
    from torch.nn import Module

    from sparseplan.exporters.torchruntime import Handle

#: parameter, shape, axis, kept entries, layout: see ``torchruntime``
Row = tuple[str, tuple[int, ...], int | None, int | None, tuple[int, ...] | None]
#: label, output, kind, weight, attributes: see ``torchlosses``
LossRow = tuple[str, str, str, float, dict[str, Any]]


def table(plan: Plan, layouts: Mapping[str, Sequence[int]] | None = None) -> tuple[Row, ...]:
    """What a plan updates: a row a parameter, in the network's order.

    Args:
        layouts: parameter to the permutation from the module's axes to the network's, as ``Imported.layouts``.

    Raises:
        PlanError: the plan has nothing to execute.
        ExportError: a layout that is no permutation of the parameter's axes.
    """
    if not plan.feasible:
        raise PlanError(f"plan has status {plan.status}: there is nothing to export")
    network, given = plan.problem.network, layouts or {}
    known = infos(network)
    rows = []
    for name in network.parameters:
        if name not in plan.update:
            continue
        fraction, shape = plan.update[name], network.tensor[name].shape
        layout = tuple(given[name]) if name in given else None
        merged = layout is not None and fraction == 1 and len(layout) > len(shape)
        if layout is not None and sorted(layout) != list(range(len(layout) if merged else len(shape))):
            raise ExportError(f"layout of {name!r}={layout} is no permutation of the axes of shape {shape}")
        axis = keep = None
        if fraction < 1:
            op, slot = network.owner[name]
            cut = op_def(op.kind).fraction(known[op.name], slot)
            if cut is None:
                raise ExportError(
                    f"parameter {name!r}: fraction={fraction:g}, but {op.kind} cannot update a part of it"
                )
            axis, keep = cut.axis, int(cut.units * fraction) * cut.per_unit
        rows.append((name, shape, axis, keep, layout))
    return tuple(rows)


def loss_rows(plan: Plan) -> tuple[LossRow, ...]:
    """The losses that the plan minimises the weighted sum of, each with all its attributes."""
    steps = plan.problem.options.loss_steps(plan.problem.network)
    return tuple(
        (s.label, s.loss.output, s.loss.kind, s.loss.weight, {**loss_def(s.loss.kind).defaults, **s.loss.attrs})
        for s in steps
    )


def loss_of(plan: Plan) -> Callable[[Any, Any], Any]:
    """What the plan minimises, as a function of outputs and targets that PyTorch differentiates.

    Both are mappings, sequences or the one tensor: see ``torchlosses.total_loss``.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        from sparseplan.exporters.torchlosses import total_loss
    except ImportError as error:
        raise MissingExtraError(f"PyTorch cannot be imported ({error}); install sparseplan[torch]") from None
    return partial(total_loss, loss_rows(plan))


def apply(plan: Plan, module: Module, *, layouts: Mapping[str, Sequence[int]] | None = None) -> Handle:
    """Make a plain training loop over ``module`` follow the plan, in place, until ``handle.remove()``.

    ``requires_grad`` is True for updated parameters alone; of those that are updated in part, gradients are masked,
    and what is not updated is put back after every optimizer's step, so that weight decay and momentum do not move
    it; norms keep their running statistics, in eval mode also after ``module.train()``.

    Args:
        module: that the plan's network was read from, or one with parameters of the same names.
        layouts: of ``Imported.layouts``, where the importer moved axes of parameters; they matter for those that
            are updated in part, and without them a square matrix would be cut along its other axis.

    Raises:
        PlanError: the plan has nothing to execute.
        ExportError: the module lacks a parameter (named, with near matches), or has it with another shape.
        MissingExtraError: PyTorch is not installed.
    """
    rows = table(plan, layouts)
    try:
        from sparseplan.exporters import torchruntime
    except ImportError as error:
        raise MissingExtraError(f"PyTorch cannot be imported ({error}); install sparseplan[torch]") from None
    try:
        return torchruntime.follow(rows, module)
    except torchruntime.MismatchError as error:
        raise ExportError(str(error)) from None


def export(plan: Plan, path: str | os.PathLike[str], *, layouts: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write a Python file that needs PyTorch alone: the table, and ``apply(module)``, which does as ``apply`` here.

    A plan with losses by outputs has them in the file too: ``objective(outputs, targets)``, as ``loss_of`` here.

    Args:
        layouts: as of ``apply``.

    Raises:
        PlanError: the plan has nothing to execute.
        OutputError: the file cannot be written.
    """
    rows = table(plan, layouts)
    runtime = Path(__file__).with_name("torchruntime.py").read_text(encoding="utf-8")
    _, _, code = runtime.partition('"""\n\n')
    what = f"Updates of network {plan.problem.network.name!r} that a plan of sparseplan {__version__} chose"
    text = [f'"""{_literal(what)}; call ``apply(module)`` before training.\n\n{_about(plan)}\n"""\n\n{code}\n\n']
    text.append(
        "#: (parameter, shape, axis that is cut, entries of it that are updated, layout); None: all, as in the plan\n"
    )
    text.append("TABLE = (\n" + "".join(f"    {row!r},\n" for row in rows) + ")\n\n\n")
    text.append(_APPLY)
    if plan.problem.options.losses:
        losses = Path(__file__).with_name("torchlosses.py").read_text(encoding="utf-8")
        _, _, code = losses.partition("import torch\n")
        rows_ = "".join(f"    {row!r},\n" for row in loss_rows(plan))
        text.append(f"{code}\n\n#: (label, output, kind, weight, attributes): their weighted sum is minimised\n"
                    f"LOSSES = (\n{rows_})\n\n\n{_OBJECTIVE}")  # fmt: skip
    atomic.write_text(path, "".join(text))


_APPLY = '''def apply(module: Any) -> Handle:
    """Make a plain training loop over ``module`` follow the plan; returns a Handle, whose ``remove()`` ends that.

    Raises MismatchError where the module lacks a parameter or has it with another shape.
    """
    return follow(TABLE, module)
'''


_OBJECTIVE = '''def objective(outputs: Any, targets: Any) -> Any:
    """The weighted sum of the losses that the plan is for; see ``total_loss``."""
    return total_loss(LOSSES, outputs, targets)
'''


def _about(plan: Plan) -> str:
    peaks = ", ".join(f"{level} {n:,} B" for level, n in plan.peak_bytes.items())
    return (
        "Rows of a table are (parameter, shape, axis, keep, layout): the first ``keep`` entries along ``axis`` are\n"
        "updated, all of them where both are None; shape and axis are the plan's. ``layout`` is the permutation that\n"
        f"leads from the module's axes to the plan's, or None.\n\nStatus {plan.status}; peak bytes planned: {peaks}."
    )


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")


def saved_bytes(module: Module, loss_fn: Any, x: Any, target: Any) -> int:
    """Bytes that PyTorch holds from a module's forward pass for its backward pass.

    Counted are the distinct storages that autograd saves while the module runs, each once and in whole: activations,
    the input where it is saved, masks and indices. Not counted are the module's parameters and buffers, which are
    there anyway, and what only the loss saves (see ``saved_parts`` for that).

    Args:
        loss_fn: called with (output, target); module, x: called as ``module(x)``, or ``module(*x)`` of a tuple.
    """
    return saved_parts(module, loss_fn, x, target)["forward"]


def saved_parts(module: Module, loss_fn: Any, x: Any, target: Any) -> dict[str, int]:
    """As ``saved_bytes``, by part: ``forward``, ``loss`` (what the loss saves beyond), ``parameters`` (of the module,
    buffers included, as far as they are saved), ``input`` (the part of ``forward`` that is the input).

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        from torch.autograd.graph import saved_tensors_hooks
    except ImportError as error:
        raise MissingExtraError(f"PyTorch cannot be imported ({error}); install sparseplan[torch]") from None
    inputs = x if isinstance(x, tuple) else (x,)
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    given = {t.untyped_storage().data_ptr() for t in inputs}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(t: Any) -> Any:
        storage = t.untyped_storage()
        kept.setdefault(storage.data_ptr(), (storage.nbytes(), t))  # held, so that no address is used twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        output = module(*inputs)
        forward = set(kept)
        loss_fn(output, target)
    parts = {"forward": 0, "loss": 0, "parameters": 0, "input": 0}
    for address, (n, _) in kept.items():
        part = "parameters" if address in own else "forward" if address in forward else "loss"
        parts[part] += n
        if address in given and address in forward:
            parts["input"] += n
    return parts


def module_of(network: Network, weights: Mapping[str, Any]) -> Module:
    """A PyTorch module that computes a network, with parameters of the same names; called with the network's inputs.

    Raises:
        ExportError: an op that PyTorch's functions do not compute as it is.
        DataError: weights that are not the network's.
        MissingExtraError: PyTorch is not installed.
    """
    try:
        from sparseplan.exporters.torchmodule import NetworkModule
    except ImportError as error:
        raise MissingExtraError(f"PyTorch cannot be imported ({error}); install sparseplan[torch]") from None
    return NetworkModule(network, weights)
