"""Arguments as they must be; those that are put together from rows, each checked against the image that it is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparseplan.dtypes import bytes_of
from sparseplan.steps import Arg, Box, Step
from sparseplan.verify.contents import Content
from sparseplan.verify.facts import Contribution, Facts
from sparseplan.verify.findings import Findings
from sparseplan.verify.images import Cells


@dataclass(frozen=True, slots=True)
class Piece:
    """``bytes`` of a value of that role and tensor, from ``lo`` on.

    Attributes:
        holds: what a read must find there, or what a write leaves. None for gradients that are
            added to: then ``adds`` tells the term.
        adds: the term of a gradient that a write contributes.
        span: number of the argument's span that they are in, where it has boxes; else spans are pieces.
    """

    role: str
    tensor: str
    bytes: int
    holds: Content | None
    adds: Contribution | None = None
    lo: int = 0
    span: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An argument as it must be; its pieces in order, adjoining where kernels need that.

    Boxes and rows of an argument that is made up of rows are checked when its pieces are derived from them.
    """

    tag: str
    shapes: tuple[tuple[tuple[int, ...], tuple[int, int] | None], ...]  # any of these (shape, channels)
    dtype: str
    pieces: tuple[Piece, ...]
    add: bool = False
    boxed: bool = False


Matched = list[tuple[Arg, Wanted]]


class Context(Protocol):
    """What the checks of boxes know of a step; ``wanted.Expectations`` is it."""

    facts: Facts
    findings: Findings
    where: str
    roles: Mapping[str, tuple[str, str]]
    layouts: Mapping[str, str]


def boxed(context: Context, arg: Arg, tensor: str, dtype: str, gradient: bool = False) -> Wanted:
    """An image in whole, wherever its rows lie; ``gradient``: its gradient, save rows that nothing contributes to."""
    facts = context.facts
    shape, cells = facts.network.tensor[tensor].shape, facts.images.cells.get(tensor)
    if cells is None or len(arg.boxes) != len(arg.spans):
        _report(context, arg, f"has {len(arg.boxes)} boxes for {len(arg.spans)} spans of {tensor!r}")
        return Wanted(arg.tag, ((facts.batched(shape), None),), dtype, (), arg.add, True)
    covered = np.zeros(cells.shape[:2], int)
    pieces: list[Piece] = []
    for k, box in enumerate(arg.boxes):
        region = _region(cells, box)
        if region is None:
            _report(context, arg, f"has {box}, which is not within shape {shape}")
            continue
        covered[slice(*box.channels), slice(*box.rows)] += 1
        pieces += _pieces(context, arg, k, region, gradient, dtype, None)
    there = np.ones(cells.shape[:2], int)
    if gradient:
        there[:, [not terms for terms in facts.contributions.get(tensor, ())]] = 0
    if (covered != there).any():
        channel, row = (int(n) for n in np.argwhere(covered != there)[0])
        _report(context, arg, f"holds channel {channel}, row {row} of {tensor!r} {covered[channel, row]} times, "
                f"which should be {there[channel, row]}")  # fmt: skip
    if arg.rows is not None:
        _report(context, arg, f"has rows={arg.rows}, which only parts of gradients have")
    return Wanted(arg.tag, ((facts.batched(shape), None),), dtype, tuple(pieces), arg.add and gradient, True)


def gradient_parts(context: Context, step: Step, tag: str, tensor: str, source: tuple[str, int]) -> Matched:
    """Gradients of an image's parts, each row by one argument: whole channels and rows of one root each."""
    facts, dtype = context.facts, context.facts.options.dtype
    cells = facts.images.cells.get(tensor)
    found: Matched = []
    if cells is None:
        context.findings.add("step", context.where, f"writes gradients of {tensor!r} in boxes, which is no image")
        return found
    (_, height, width) = facts.network.tensor[tensor].shape
    needed = np.isin(cells[..., 0], [i for i, name in enumerate(facts.images.names) if name in facts.needed])
    written = np.zeros(cells.shape[:2], int)
    for arg in step.writes:
        part = Box(arg.channels or (0, cells.shape[0]), arg.rows or (0, height))
        region = _region(cells, part)
        given = (arg.channels is None) == (arg.rows is None)
        value = arg.spans[0].value if arg.spans else ""
        if arg.tag != tag or region is None or not given or len(arg.spans) != 1:
            _report(context, arg, f"of channels={arg.channels}, rows={arg.rows} in {len(arg.spans)} spans is no part "
                    f"of the gradient of {tensor!r}")  # fmt: skip
            continue
        extent = (region.shape[0], region.shape[1], width)
        if arg.boxes not in ((), (Box((0, extent[0]), (0, extent[1])),)):
            _report(context, arg, f"has boxes={arg.boxes}, which should be all of shape {extent}")
        held = facts.images.held(region)
        if held is None or context.roles.get(value) != ("gradient", held[0]) or held[0] not in facts.needed:
            _report(context, arg, f"goes to {value!r}, which is not the gradient of its rows, or which nothing needs")
            continue
        written[slice(*part.channels), slice(*part.rows)] += 1
        order = 0 if tensor in facts.mosaics else facts.roots[tensor].index(held[0])
        pieces = _pieces(context, arg, 0, region, True, dtype, (*source, order))
        shape = (facts.batched(extent), arg.channels)
        found.append((arg, Wanted(tag, (shape,), dtype, tuple(pieces), arg.add, True)))
    if (written != needed).any():
        channel, row = (int(n) for n in np.argwhere(written != needed)[0])
        what = f"writes channel {channel}, row {row} of the gradient of {tensor!r}"
        context.findings.add("step", context.where, f"{what} "
                             f"{written[channel, row]} times, which should be {int(needed[channel, row])}")  # fmt: skip
    return found


def _report(context: Context, arg: Arg, text: str) -> None:
    context.findings.add("step", context.where, f"{arg.tag!r} {text}")


def _region(cells: Cells, box: Box) -> Cells | None:
    """The cells of a box; None where it is not within the image."""
    (c0, c1), (r0, r1) = box.channels, box.rows
    if not (0 <= c0 < c1 <= cells.shape[0] and 0 <= r0 < r1 <= cells.shape[1]):
        return None
    return cells[c0:c1, r0:r1]


def _pieces(
    context: Context, arg: Arg, k: int, region: Cells, gradient: bool, dtype: str, adds: Contribution | None
) -> list[Piece]:
    """The bytes that a span must be: of activations or inputs, or of a gradient (``adds``: written)."""
    facts = context.facts
    held = facts.images.held(region)
    if held is None:
        _report(context, arg, f"has box {k}, which is not whole rows of one tensor")
        return []
    root, first, last = held
    channels, height, width = facts.network.tensor[root].shape
    row = bytes_of(channels * width, dtype)
    if context.layouts.get(arg.spans[k].value) != "hcw" and (first, last) != (0, height):
        _report(context, arg, f"takes rows [{first}, {last}) of {arg.spans[k].value!r}, which is not stored by rows")
        return []
    if not gradient:
        role = facts.network.tensor[root].role
        return [Piece(role, root, (last - first) * row, Content(role, root), None, first * row, k)]
    if adds is not None:
        return [Piece("gradient", root, (last - first) * row, None, adds, first * row, k)]
    # rows are read as they are complete, those with the same terms at once
    terms = [frozenset(t) for t in facts.contributions.get(root, ())][first:last]
    pieces, at = [], first
    for same, run in itertools.groupby(terms):
        count = len(list(run))
        pieces.append(Piece("gradient", root, count * row, Content("gradient", root, same), None, at * row, k))
        at += count
    return pieces
