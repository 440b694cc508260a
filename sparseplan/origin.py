"""Where a network's weights come from: said in plan files, so that they are found again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.errors import DataError
from sparseplan.jsonio import Node

#: files that weights are read from
FILES = (".npz", ".onnx")
_SHA256 = re.compile("[0-9a-f]{64}")
_LONGEST = 65_536


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
        source: path of an npz or ONNX file, as seen from the current folder; a name of the zoo; or
            ``package.module:function``. Empty: they were given in memory.
        sha256: of the weights, as ``weights_sha256`` has it.
        shapes, fixed, outputs, fold: how an ONNX file was read; see ``sources.imported`` and ``sources.folded``.
        taken_from: of an npz that was written beside a plan, what it was taken from.

    Raises:
        DataError: a digest that is none.
    """

    source: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    fold: bool = False
    taken_from: str = ""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise DataError(f"sha256={self.sha256[:80]!r} must be 64 hexadecimal digits")
        object.__setattr__(self, "shapes", MappingProxyType({k: tuple(v) for k, v in self.shapes.items()}))
        object.__setattr__(self, "fixed", MappingProxyType(dict(self.fixed)))
        object.__setattr__(self, "outputs", tuple(self.outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Origin, (self.source, self.sha256, dict(self.shapes), dict(self.fixed), self.outputs, self.fold,
                         self.taken_from))  # fmt: skip

    @property
    def is_file(self) -> bool:
        """Whether the source is a file."""
        return self.source.endswith(FILES)

    @property
    def is_module(self) -> bool:
        """Whether the source is code that makes a module."""
        return ":" in self.source and not self.is_file

    def to_dict(self, folder: str | None = None) -> dict[str, Any]:
        """As plain data, a path as seen from ``folder`` (default: the current one)."""
        o = self if folder is None else self.seen_from(folder)
        return {"source": o.source, "sha256": o.sha256, "shapes": {k: list(v) for k, v in o.shapes.items()},
                "fixed": dict(o.fixed), "outputs": list(o.outputs), "fold": o.fold,
                "taken_from": o.taken_from}  # fmt: skip

    @classmethod
    def from_node(cls, node: Node) -> Origin:
        """From plain data; what is malformed is told as ``Node`` does."""
        node.record(("source", "sha256"), ("shapes", "fixed", "outputs", "fold", "taken_from"))
        for key in ("source", "taken_from"):
            if not isinstance(node.value.get(key, ""), str) or len(node.value.get(key, "")) > _LONGEST:
                node[key].fail(f"must be a string of at most {_LONGEST:,} characters")
        if not _SHA256.fullmatch(node["sha256"].text()):
            node["sha256"].fail("must be 64 hexadecimal digits")
        shapes, fixed, outputs, fold = (node.get(key) for key in ("shapes", "fixed", "outputs", "fold"))
        return cls(
            node.value["source"], node["sha256"].text(),
            {k: tuple(e.integer(1) for e in n.entries(16)) for k, n in shapes.members(1024)} if shapes else {},
            {k: n.number() for k, n in fixed.members(1024)} if fixed else {},
            tuple(n.text() for n in outputs.entries(1024)) if outputs else (),
            fold is not None and fold.boolean(), node.value.get("taken_from", ""),
        )  # fmt: skip

    def seen_from(self, folder: str | os.PathLike[str]) -> Origin:
        """The same with its path as it is seen from a folder rather than from the current one.

        A path from the root stays one, unless it leads into the folder: both may be moved together.
        """
        if not self.is_file:
            return self
        try:
            seen = Path(os.path.relpath(self.source, folder or ".")).as_posix()
        except ValueError:  # another drive
            return replace(self, source=os.path.abspath(self.source))
        return self if os.path.isabs(self.source) and seen.startswith("../") else replace(self, source=seen)

    def seen_here(self, folder: str | os.PathLike[str]) -> Origin:
        """The same with a path that is relative to a folder as it is seen from the current one."""
        if not self.is_file or os.path.isabs(self.source):
            return self
        return replace(self, source=os.path.normpath(os.path.join(folder, self.source)))


def weights_sha256(weights: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, of names, shapes and float32 values of weights, whatever file held them."""
    made = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name], np.dtype("<f4"))
        made.update(f"{name} {list(array.shape)}\n".encode("utf-8", "surrogatepass"))
        made.update(array.tobytes())
    return made.hexdigest()
