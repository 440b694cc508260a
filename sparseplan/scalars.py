"""NumPy's scalars and other real numbers as Python's, wherever users hand them in."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")


def plain(value: Any) -> Any:
    """``value`` with the scalars in it, also those in mappings, tuples and lists, as Python's numbers; arrays stay.

    Scalars are NumPy's, fractions and decimals.

    What holds none is given back as it is, uncopied.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Fraction, Decimal)):
        return _nearest(value)
    if isinstance(value, Mapping):
        made = {plain(k): plain(v) for k, v in value.items()}
        same = all(type(k) is type(m) and value[k] is v for k, (m, v) in zip(value, made.items(), strict=False))
        return value if same else made
    if type(value) in (tuple, list):
        items = [plain(v) for v in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
    return value


def _nearest(value: Fraction | Decimal) -> int | float:
    """The int that it is, or the nearest float; infinite beyond the largest."""
    if isinstance(value, Decimal) and not value.is_finite():
        return math.nan if value.is_nan() else float(value)
    exact = Fraction(value)
    if abs(exact) > Fraction(sys.float_info.max):
        return math.inf if exact > 0 else -math.inf
    return int(exact) if exact.denominator == 1 else float(exact)


def plain_fields(instance: Any) -> None:
    """Make the fields of a dataclass plain, frozen or not: the first thing that ``__post_init__`` does."""
    for field in dataclasses.fields(instance):
        old = getattr(instance, field.name)
        new = plain(old)
        if new is not old:
            object.__setattr__(instance, field.name, new)


def plain_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """A function that takes NumPy's scalars wherever it takes numbers."""

    @functools.wraps(function)
    def called(*args: P.args, **kept: P.kwargs) -> T:
        return function(*(plain(a) for a in args), **{k: plain(v) for k, v in kept.items()})

    return called
