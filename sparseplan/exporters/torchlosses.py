"""The losses of a plan for PyTorch. Stands alone: ``export`` copies this text into its files.

Rows of ``losses`` are (label, output, kind, weight, attributes): what is minimised is the sum of weight times loss. An
entry of a dense target that is NaN has no label; losses are means over the labels, as in the plan.
"""

from typing import Any

import torch


def total_loss(losses: Any, outputs: Any, targets: Any) -> Any:
    """The weighted sum.

    ``outputs``: each by the plan's name for it, or a sequence in the order in which losses first name them, or the
    one tensor. ``targets``: each by its loss's label, or a sequence in the order of the losses, or the one tensor.
    """
    names = list(dict.fromkeys(output for _, output, *_ in losses))
    y = _by_name(outputs, names, "outputs")
    t = _by_name(targets, [label for label, *_ in losses], "targets")
    parts = [w * loss(kind, y[out], t[label], attrs) for label, out, kind, w, attrs in losses]
    return torch.stack(parts).sum()


def loss(kind: str, y: Any, target: Any, attrs: Any) -> Any:
    """One loss, without its weight; ``(batch, *shape)``, classes ``(batch,)`` or ``(batch, 1)``."""
    if kind == "cross_entropy":
        return torch.nn.functional.cross_entropy(y, target.reshape(len(y)).long())
    valid = ~torch.isnan(target)
    r = y - torch.where(valid, target, y.detach())  # 0 where there is no label
    count = valid.sum().clamp(min=1)
    size = r.abs()
    if kind == "l1":
        return size.sum() / count
    if kind == "mse":
        return (r * r).sum() / count
    if kind == "huber":
        delta = attrs["delta"]
        return torch.where(size <= delta, r * r / 2, delta * (size - delta / 2)).sum() / count
    if kind == "berhu":
        bend = attrs["fraction"] * size.detach().max()
        square = (r * r + bend * bend) / (2 * bend.clamp(min=torch.finfo(y.dtype).tiny))
        return torch.where(size <= bend, size, square).sum() / count
    raise ValueError(f"loss {kind!r} is unknown here")


def _by_name(given: Any, names: Any, what: str) -> Any:
    if hasattr(given, "keys"):
        missing = [n for n in names if n not in given]
        if missing:
            raise ValueError(f"{what} lack {missing}; give {names}")
        return given
    found = [given] if isinstance(given, torch.Tensor) else list(given)
    if len(found) != len(names):
        raise ValueError(f"{what} are {len(found)}, expected {len(names)}: {names}")
    return dict(zip(names, found, strict=True))
