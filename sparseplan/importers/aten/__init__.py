"""How ATen ops are said by the ops of a network: one rule an op, one file a family."""

from sparseplan.importers.aten import layers, pointwise, products, recurrent, reduce, shapes, windows
from sparseplan.importers.aten.base import RULES, Call, Ids, Unsaid
from sparseplan.importers.aten.layers import READERS
from sparseplan.importers.aten.shapes import MOVES

__all__ = [
    "MOVES",
    "READERS",
    "RULES",
    "Call",
    "Ids",
    "Unsaid",
    "layers",
    "pointwise",
    "products",
    "recurrent",
    "reduce",
    "shapes",
    "windows",
]
