"""Which channel and row of which root each channel and row of an image is.

Columns never part, so an image is told by an array ``(channels, rows, 3)`` of integers: the number of a
root, and the channel and the row of it. Windows, stacks and concats are what NumPy does to such arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.network import Op
from sparseplan.ops import OpDef, OpInfo

Cells = npt.NDArray[Any]


class Images:
    """Cells of tensors by name; None of what is no image, or not made up of images."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.heights: dict[str, int] = {}
        self.channels: dict[str, int] = {}
        self.cells: dict[str, Cells | None] = {}

    def own(self, t: str, shape: Sequence[int]) -> None:
        """A tensor with bytes of its own."""
        self.cells[t] = None
        if len(shape) == 3:
            self.names.append(t)
            self.channels[t], self.heights[t] = shape[0], shape[1]
            self.cells[t] = np.stack(
                np.broadcast_arrays(len(self.names) - 1, *np.ogrid[: shape[0], : shape[1]]), axis=2
            )  # fmt: skip

    def view(self, op: Op, d: OpDef, info: OpInfo) -> Cells | None:
        """What an op's output is if it costs nothing."""
        parts = [self.cells[t] for t in op.inputs]
        if any(p is None for p in parts):
            return None
        images = [p for p in parts if p is not None]
        found: Cells | None = None
        if d.window:
            found = images[0][:, info.attrs["lo"] : info.attrs["hi"]]
        elif d.stack:
            found = np.concatenate(images, axis=1)
        elif d.concat and info.attrs.get("axis", 0) == 0:
            found = np.concatenate(images, axis=0)
        elif d.view and info.inputs[0] == info.output:
            found = images[0]
        if found is None or len({tuple(c) for c in found.reshape(-1, 3).tolist()}) != found[..., 0].size:
            return None  # a copy has to be made of what is there twice
        return found

    def roots(self, cells: Cells) -> list[str]:
        """Names of the roots in an image, by channel and then by row."""
        return [self.names[i] for i in dict.fromkeys(cells[..., 0].reshape(-1).tolist())]

    def plain(self, cells: Cells) -> bool:
        """Whether an image is whole roots, the channels of one after those of the other."""
        parts = [self.cells[r] for r in self.roots(cells)]
        if any(p is None or p.shape[1] != cells.shape[1] for p in parts):
            return False
        return bool(np.array_equal(np.concatenate([p for p in parts if p is not None], axis=0), cells))

    def held(self, region: Cells) -> tuple[str, int, int] | None:
        """The root of which a region is all channels of rows ``[first, last)``; None where it is none such."""
        if not region.size:
            return None
        root, first = self.names[int(region[0, 0, 0])], int(region[0, 0, 2])
        whole = self.cells[root]
        assert whole is not None
        last = first + region.shape[1]
        if last > whole.shape[1] or not np.array_equal(whole[:, first:last], region):
            return None
        return root, first, last

    def channel_ranges(self, cells: Cells) -> dict[tuple[int, int], set[str]] | None:
        """Channels that each root takes in an image, with the roots; None where they overlap."""
        found: dict[tuple[int, int], set[str]] = {}
        for number in dict.fromkeys(cells[..., 0].reshape(-1).tolist()):
            channel, row = np.nonzero(cells[..., 0] == number)
            for r in dict.fromkeys(row.tolist()):
                here = channel[row == r]
                found.setdefault((int(here.min()), int(here.max()) + 1), set()).add(self.names[number])
        if any(b[0] < a[1] for a, b in itertools.pairwise(sorted(found))):
            return None
        return found
