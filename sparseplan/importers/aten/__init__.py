"""How ATen ops are said by the ops of a network: one rule an op, one file a family."""

from sparseplan.importers.aten import layers, pointwise, products, recurrent, reduce, shapes, windows
from sparseplan.importers.aten.base import RULES, VIEWS, Call, Unsaid
from sparseplan.importers.aten.shapes import RESHAPES, TURNS

__all__ = [
    "RESHAPES",
    "RULES",
    "TURNS",
    "VIEWS",
    "Call",
    "Unsaid",
    "layers",
    "pointwise",
    "products",
    "recurrent",
    "reduce",
    "shapes",
    "windows",
]
