"""A good update set without a search, for when the 0/1 program runs out of time before it has found one.

Updates are added from the network's end, whose backward pass is short, and once more by their value for a byte of
parameter; the better set is taken. It proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sparseplan.problem import Problem

#: update sets that are tried for each order of adding: a few dozen milliseconds each on networks of 150 ops
TRIES = 40


def greedy(
    problem: Problem, fits: Callable[[Mapping[str, float]], bool], start: Mapping[str, float] | None = None
) -> dict[str, float] | None:
    """An update set that fits; None where not even the least one does.

    Args:
        fits: whether an update set, which respects choices, must and ties, keeps the budgets.
        start: an update set to begin with that is known to fit, instead of the least.
    """
    least = problem.least_update() if start is None else dict(start)
    if start is None and not fits(least):
        return None
    elements = {p: problem.network.tensor[p].elements for p in problem.choices}
    place = {op.name: i for i, op in enumerate(problem.network.ops)}
    tied = {p for tie in problem.ties for p in tie}
    units = [*problem.ties, *((p,) for p in problem.choices if p not in tied)]
    moves = [(_value(problem, level), level) for unit in units for level in problem.joint_levels(unit)]
    moves = [(value, level) for value, level in moves if value > 0]

    def density(move: tuple[float, Mapping[str, float]]) -> tuple[float, float]:
        value, level = move
        return -value / sum(r * elements[p] for p, r in level.items()), -value

    def from_the_end(move: tuple[float, Mapping[str, float]]) -> tuple[int, float]:
        value, level = move
        return -min(place[problem.network.owner[p][0].name] for p in level), -value

    ways = ([level for _, level in sorted(moves, key=key)] for key in (from_the_end, density))
    found = [_filled(problem, least, way, fits) for way in ways]
    return max(found, key=problem.worth)


def _value(problem: Problem, level: Mapping[str, float]) -> float:
    return sum(problem.values[p][r] for p, r in level.items())


def _filled(
    problem: Problem,
    update: dict[str, float],
    moves: Sequence[Mapping[str, float]],
    fits: Callable[[Mapping[str, float]], bool],
) -> dict[str, float]:
    """``update`` with every move in turn that fits, many at once where many do: the search halves what does not fit
    and doubles what does."""
    at, count, tries = 0, len(moves), 0
    failed: list[dict[str, float]] = []
    while at < len(moves) and tries < TRIES:
        more = dict(update)
        for level in moves[at : at + count]:
            if all(more.get(p, 0.0) < r for p, r in level.items()):
                more.update(level)
        hopeless = any(all(more.get(p, 0.0) >= r for p, r in less.items()) for less in failed)
        better = not hopeless and problem.worth(more) > problem.worth(update)
        tries += better
        if better and fits(more):
            update, at, count = more, at + count, 2 * count
            continue
        if better:
            failed.append(more)
        if count > 1:
            count //= 2
        else:
            at += 1
    return update
