"""Windows as ONNX tells them: kernel, strides, pads and dilations of any number of axes, auto_pad resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparseplan.importers.draft import Shape
from sparseplan.importers.onnxcall import Call, Malformed


@dataclass(frozen=True, slots=True)
class Sliding:
    """Windows over spatial axes; pads before and after each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How far a window reaches along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def _many(call: Call, name: str, count: int, default: int, low: int) -> tuple[int, ...]:
    found = call.ints(name)
    if found is None:
        return (default,) * count
    if len(found) != count or any(n < low for n in found):
        raise Malformed(f"attribute {name!r}={found[:8]} must be {count} numbers of at least {low}")
    return tuple(found)


def sliding(call: Call, spatial: Shape, kernel: Sequence[int]) -> Sliding:
    """The windows of a convolution or pool over ``spatial`` extents. Raises NetworkError."""
    n = len(spatial)
    if call.ints("kernel_shape") is not None:
        kernel = _many(call, "kernel_shape", n, 1, 1)
    if len(kernel) != n:
        raise Malformed(f"kernel {tuple(kernel)} does not fit spatial extents {spatial}")
    strides, dilations = _many(call, "strides", n, 1, 1), _many(call, "dilations", n, 1, 1)
    pads = _many(call, "pads", 2 * n, 0, 0)
    before, after = pads[:n], pads[n:]
    mode = call.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = []
        for extent, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
            total.append(max(0, (-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent))
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        before = after = (0,) * n
    elif mode != "NOTSET":
        raise Malformed(f"auto_pad={mode!r} must be NOTSET, SAME_UPPER, SAME_LOWER or VALID")
    return Sliding(tuple(kernel), strides, before, after, dilations)
