"""What is asked of the planner: network, device, training options, choices, values, caps."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sparseplan.device import Device
from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.origin import Origin
from sparseplan.scalars import plain, plain_arguments, plain_fields
from sparseplan.steps import (
    FRACTIONS,
    MAIN,
    PAGE_LEVEL,
    TrainingOptions,
    UpdateSet,
    allowed_levels,
    reached_by_gradient,
    updatable,
    why_not_updatable,
)
from sparseplan.terms import Pair, Saturation, Term

__all__ = ["Pair", "Problem", "Saturation", "Term", "Values", "resolve_choices", "resolve_ties", "resolve_values"]

Values = Mapping[str, Mapping[float, float]]
#: what may be done so that less has to be held: run forward ops again; page tensors to L3 and back, and have
#: accumulators and optimizer state there; stream frozen parameters from flash (or L3); save inputs in 8 bits; run
#: groups of ops in horizontal stripes; move steps within their dependencies, once all else is decided
SAVINGS = ("recompute", "page", "stream", "int8", "stripes", "order")
#: share of its worth that an update loses, unless told, when its gradient is computed from an input in 8 bits. No
#: measurement: enough to keep inputs as they are wherever that costs nothing.
INT8_PRICE = 0.01
#: a larger value would overflow in sums
MOST_VALUE = 1e200


@dataclass(frozen=True)
class Problem:
    """A planning problem.

    Attributes:
        choices: parameter to the fractions of it that may be updated, ascending; absent: frozen.
        must: parameter to the least fraction that has to be updated.
        values: parameter to the worth of updating each of its allowed fractions.
        max_macs: cap on the MACs of one run of the schedule, forward and backward, or None.
        terms: worth beyond the sum of values: pairs, and gains that saturate.
        ties: sets of parameters that are updated together. At a joint fraction each has its own
            least allowed one that is at least as large (biases, which cannot be cut, the whole).
        savings: what may be done so that less has to be held, of ``SAVINGS``.
        max_seconds, max_joules: caps on the time and energy of one run of the schedule, by the device's
            tables (see ``costs``), or None.
        int8_price: share of its own value (terms aside) that an update loses when its gradient is computed from
            an input that was saved in 8 bits, in [0, 1].
        origin: where the network's weights come from, where that is known; a plan does not depend on it.
    """

    network: Network
    device: Device
    options: TrainingOptions
    choices: Mapping[str, tuple[float, ...]]
    must: Mapping[str, float] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    max_macs: int | None = None
    terms: tuple[Term, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    savings: tuple[str, ...] = ()
    int8_price: float = INT8_PRICE
    max_seconds: float | None = None
    max_joules: float | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        plain_fields(self)
        alignment = self.device.level(MAIN).alignment
        if self.options.alignment != alignment:
            raise ProblemError(
                f"alignment={self.options.alignment} differs from device {self.device.name!r}'s {alignment}; use one"
            )
        self.device.level(self.options.frozen)  # where frozen parameters live has to exist
        table = infos(self.network)
        self.options.loss_steps(self.network)  # each on an output that it can judge
        judged = self.options.loss_outputs(self.network)
        reached = reached_by_gradient(self.network, table, judged)
        for p, fractions in self.choices.items():
            if p not in self.network.owner:
                raise ProblemError(f"parameter {p!r} is unknown{near(p, self.network.owner)}")
            op, slot = self.network.owner[p]
            if not updatable(self.network, reached, p):
                why = why_not_updatable(self.network, table, p, judged)
                raise ProblemError(f"parameter {p!r} cannot be updated: {why}; drop it")
            allowed = [r for r, _ in allowed_levels(table[op.name], slot, fractions)]
            if tuple(allowed) != tuple(fractions) or not fractions:
                raise ProblemError(
                    f"fractions of {p!r}={list(fractions)} must be ascending, distinct in channels; could be {allowed}"
                )
            for r in fractions:
                v = self.values.get(p, {}).get(r)
                if v is None:
                    raise ProblemError(
                        f"parameter {p!r} has no value for fraction {r}; give one (0 if it is worthless)"
                    )
                _check_value(v, f"value of {p!r} at fraction {r}")
        for p, least in self.must.items():
            if p not in self.choices:
                raise ProblemError(f"parameter {p!r} must be updated, but may not be")
            if not any(r >= least for r in self.choices[p]):
                raise ProblemError(f"parameter {p!r} must be updated by {least}, allowed: {list(self.choices[p])}")
        if self.max_macs is not None and (
            isinstance(self.max_macs, bool) or not isinstance(self.max_macs, int) or self.max_macs < 0
        ):
            raise ProblemError(f"max_macs={self.max_macs!r} must be a whole number, at least 0")
        for name in self.savings:
            if name not in SAVINGS:
                raise ProblemError(f"savings={name!r} is unknown{near(str(name), SAVINGS)}")
        for name, why in savings_lacking(self.device, self.options.batch, self.options.concat).items():
            if name in self.savings:
                raise ProblemError(f"savings={name!r} needs {why}; {'change one' if name == 'stripes' else 'drop it'}")
        object.__setattr__(self, "savings", tuple(n for n in SAVINGS if n in self.savings))
        for name, cap in (("max_seconds", self.max_seconds), ("max_joules", self.max_joules)):
            number = isinstance(cap, (int, float)) and not isinstance(cap, bool)
            if cap is not None and not (number and 0 < cap < 1e15):
                raise ProblemError(f"{name}={cap!r} must be a number above 0")
        price = self.int8_price
        if isinstance(price, bool) or not isinstance(price, (int, float)) or not 0 <= price <= 1:
            raise ProblemError(f"int8_price={price!r} must be a share from 0 to 1 of an update's worth")
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "ties", tuple(tuple(tie) for tie in self.ties))
        self._check_terms()
        self._check_ties()
        frozen = MappingProxyType
        object.__setattr__(self, "choices", frozen({p: tuple(r) for p, r in self.choices.items()}))
        object.__setattr__(self, "must", frozen(dict(self.must)))
        object.__setattr__(
            self, "values", frozen({p: frozen({float(r): v for r, v in t.items()}) for p, t in self.values.items()})
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            Problem,
            (self.network, self.device, self.options, dict(self.choices), dict(self.must),
             {p: dict(t) for p, t in self.values.items()}, self.max_macs, self.terms, self.ties, self.savings,
             self.int8_price, self.max_seconds, self.max_joules, self.origin),
        )  # fmt: skip

    def _check_terms(self) -> None:
        for i, term in enumerate(self.terms):
            if not isinstance(term, (Pair, Saturation)):
                raise ProblemError(f"terms[{i}]={term!r} must be a Pair or a Saturation")
            for p in term.parameters():
                if p not in self.network.owner:
                    raise ProblemError(f"terms[{i}]: parameter {p!r} is unknown{near(p, self.network.owner)}")
            if isinstance(term, Pair):
                _check_value(term.value, f"value of terms[{i}]")
                continue
            _check_value(term.most(), f"worth of terms[{i}]")
            for p, table in term.weights.items():
                if p in self.choices and not set(self.choices[p]) <= set(table):
                    missing = sorted(set(self.choices[p]) - set(table))
                    raise ProblemError(f"terms[{i}]: weights of {p!r} lack fractions {missing}; give each allowed one")

    def _check_ties(self) -> None:
        tied: dict[str, int] = {}
        for i, tie in enumerate(self.ties):
            for p in tie:
                if p not in self.choices:
                    raise ProblemError(f"ties[{i}]: parameter {p!r} may not be updated; leave it out of the tie")
                if p in tied:
                    raise ProblemError(f"parameter {p!r} is in ties[{tied[p]}] and in ties[{i}]; tie it once")
                tied[p] = i

    @property
    def stream_level(self) -> str | None:
        """Where single frozen parameters may live with ``savings="stream"``: flash, or L3 where there is none."""
        return next((name for name in ("flash", PAGE_LEVEL) if self.device.has(name)), None)

    def capacity(self, level: str) -> int | None:
        """Bytes of a level that a plan may use, or None where that is not known."""
        if level not in {item.name for item in self.device.levels}:
            return None
        found = self.device.level(level)
        return None if found.bytes is None else max(found.bytes - found.reserved, 0)

    def worth(self, update: Mapping[str, float], packed: Collection[str] = ()) -> float:
        """Value of an update set: summed values, pairs and saturations; correctly rounded sums whatever the order.

        ``packed``: parameters whose gradients are computed from inputs in 8 bits, each less its price.
        """
        terms = (term.worth(update) for term in self.terms)
        prices = (-self.price(p, update[p]) for p in packed if p in update)
        return math.fsum((*(self.values[p][r] for p, r in update.items()), *terms, *prices))

    def price(self, p: str, r: float) -> float:
        """What an update loses when its gradient is computed from an input in 8 bits."""
        return self.int8_price * abs(self.values[p][r])

    def most_worth(self) -> float:
        """An upper bound on the value of any update set."""
        return math.fsum((*(max(0.0, *t.values()) for t in self.values.values()), *(t.most() for t in self.terms)))

    def joint_levels(self, tie: Sequence[str]) -> tuple[dict[str, float], ...]:
        """The ways to update tied parameters, from the least joint fraction to the largest."""
        found: list[dict[str, float]] = []
        for joint in sorted({r for p in tie for r in self.choices[p]}):
            level = {p: next((r for r in self.choices[p] if r >= joint), self.choices[p][-1]) for p in tie}
            if level not in found:
                found.append(level)
        return tuple(found)

    def allowed(self, update: UpdateSet) -> bool:
        """Whether an update set respects choices, must and ties (budgets aside)."""
        chosen = update.fractions
        return (
            all(r in self.choices.get(p, ()) for p, r in chosen.items())
            and all(chosen.get(p, 0.0) >= least for p, least in self.must.items())
            and all(self.together({p: chosen[p] for p in tie if p in chosen}, tie) for tie in self.ties)
        )

    def together(self, chosen: Mapping[str, float], tie: Sequence[str]) -> bool:
        """Whether what is chosen of a tie is one of its joint levels, or nothing."""
        return not chosen or chosen in self.joint_levels(tie)

    def least_update(self) -> dict[str, float]:
        """The least that has to be updated."""
        least = {p: next(r for r in self.choices[p] if r >= r0) for p, r0 in self.must.items()}
        for tie in self.ties:
            asked = {p: least[p] for p in tie if p in least}
            if asked:
                least.update(next(v for v in self.joint_levels(tie) if all(v[p] >= r for p, r in asked.items())))
        return least


def savings_lacking(device: Device, batch: int = 1, concat: str = "split") -> dict[str, str]:
    """Savings that cannot be had on a device, or with a batch or a way to read concats, and what each needs."""
    found = {}
    if not device.has(PAGE_LEVEL):
        found["page"] = f"{PAGE_LEVEL}, which device {device.name!r} lacks"
    if not device.has("flash") and not device.has(PAGE_LEVEL):
        found["stream"] = f"flash or {PAGE_LEVEL}, which device {device.name!r} lacks"
    for name, value, needed in (("batch", batch, 1), ("concat", concat, "split")):
        if value != needed:
            found["stripes"] = f"{name}={needed!r}, given {name}={value!r}"
    return found


def _check_value(v: object, what: str) -> None:
    if isinstance(v, bool) or not isinstance(v, (int, float)) or not abs(v) < math.inf:
        raise ProblemError(f"{what}={v!r} must be a finite number")
    if abs(v) > MOST_VALUE:
        shown = v if isinstance(v, float) else "an integer of hundreds of digits"
        raise ProblemError(f"{what}={shown} is beyond {MOST_VALUE:g} in magnitude; scale all values down")


def parse_pattern(text: str) -> tuple[str, float]:
    """``"decoder0.*"`` -> (pattern, 1.0); ``"decoder0.*@1/4"`` or ``@0.25`` -> (pattern, 0.25)."""
    pattern, at, fraction = text.partition("@")
    if not at:
        return pattern, 1.0
    top, slash, bottom = fraction.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not 0 < value <= 1:
        raise ProblemError(f"pattern={text!r}: fraction {fraction!r} must be in (0, 1], such as 1/4 or 0.25")
    return pattern, value


def match(network: Network, pattern: str, what: str) -> list[str]:
    """Parameters that a shell-style pattern names; an exact name wins. Raises ProblemError where there is none."""
    if pattern in network.owner:  # names may hold characters that mean something in patterns
        return [pattern]
    found = fnmatch.filter(network.parameters, pattern)
    if not found:
        raise ProblemError(f"{what}={pattern!r} matches no parameter{near(pattern, network.parameters)}")
    return found


class _Able:
    """Which parameters of a network can be updated at all."""

    def __init__(self, network: Network, fixed: Collection[str], outputs: Sequence[str] | None) -> None:
        self.network, self.fixed, self.infos, self.outputs = network, frozenset(fixed), infos(network), outputs
        self._reached = reached_by_gradient(network, self.infos, outputs)

    def __call__(self, p: str) -> bool:
        return p not in self.fixed and updatable(self.network, self._reached, p)

    def why_not(self, p: str) -> str:
        if not updatable(self.network, self._reached, p):
            return why_not_updatable(self.network, self.infos, p, self.outputs)
        return "it is a constant of the origin, which is not trained there: leave it out"

    def match(self, pattern: str, what: str) -> list[str]:
        """What a pattern names and can be updated. Raises ProblemError where that is nothing."""
        named = match(self.network, pattern, what.partition("=")[0])
        found = [p for p in named if self(p)]
        if found:
            return found
        if named == [pattern]:
            raise ProblemError(f"{what}: parameter {pattern!r} cannot be updated: {self.why_not(pattern)}")
        raise ProblemError(
            f"{what} names only parameters that cannot be updated, {named[0]!r} for one: {self.why_not(named[0])}"
        )


@plain_arguments
def resolve_choices(
    network: Network,
    may: Sequence[str] = (),
    must: Sequence[str] = (),
    never: Sequence[str] = (),
    fractions: Iterable[float] = FRACTIONS,
    fixed: Collection[str] = (),
    outputs: Sequence[str] | None = None,
) -> tuple[dict[str, tuple[float, ...]], dict[str, float]]:
    """Allowed fractions and obligations of each parameter, from name patterns.

    A pattern of ``may`` or ``must`` that is no parameter's exact name passes over what can never be updated
    (statistics of a norm, what no gradient reaches, ``fixed``); an exact name of such a one is an error.

    ``may``: only these (and those of ``must``) may be updated, at most by the fraction after ``@``;
    none given means all but int8 ones, which are updated only where ``may`` or ``must`` names them.
    ``must``: updated by at least the fraction after ``@`` (in whole without).
    ``never``: frozen, whatever ``may`` says.
    ``fixed``: constants of the network's origin, which it does not train.
    ``outputs``: that losses are on (default: the first).

    Raises:
        ProblemError: a pattern that matches nothing, or only what can never be updated, or ``must`` and ``never``
            on one parameter.
    """
    fractions = plain(tuple(fractions))
    for r in fractions:
        if isinstance(r, bool) or not isinstance(r, (int, float)) or not 0 < r <= 1:
            raise ProblemError(f"fraction={r!r} must be a number in (0, 1]")
    able = _Able(network, fixed, outputs)
    least: dict[str, float] = {}
    for text in must:
        pattern, r = parse_pattern(text)
        for p in able.match(pattern, f"must={text!r}"):
            least[p] = max(r, least.get(p, 0.0))
    free = (p for p in network.parameters if network.tensor[p].dtype != "int8")
    most: dict[str, float] = {} if may else dict.fromkeys(free, 1.0)
    for text in may:
        pattern, r = parse_pattern(text)
        for p in able.match(pattern, f"may={text!r}"):
            most[p] = max(r, most.get(p, 0.0))
    for p in least:
        most[p] = max(least[p], most.get(p, 0.0))
    for text in never:
        for p in match(network, text, "never"):
            if p in least:
                raise ProblemError(f"parameter {p!r} both must be updated and never may (never={text!r}); drop one")
            most.pop(p, None)
    table = able.infos
    choices: dict[str, tuple[float, ...]] = {}
    for p in network.parameters:
        op, slot = network.owner[p]
        if p not in most or not able(p):
            continue
        wanted = {r for r in (*fractions, least.get(p, most[p])) if r <= most[p]}
        cuts = {op_def(user.kind).fraction(table[user.name], s) for user, s in network.users[p]}
        if cuts == {None} or len(cuts) > 1:
            wanted = {1.0}  # cannot be cut: a cap below the whole forbids nothing here
        choices[p] = tuple(r for r, _ in allowed_levels(table[op.name], slot, sorted(wanted)))
        if not choices[p]:
            del choices[p]
    for p, r in least.items():
        if p not in choices:
            raise ProblemError(f"parameter {p!r} must be updated by {r}, but that keeps none of its channels")
    return choices, least


@plain_arguments
def resolve_values(
    network: Network, choices: Mapping[str, Sequence[float]], given: Mapping[str, Any] | None = None
) -> dict[str, dict[float, float]]:
    """Value of each allowed (parameter, fraction).

    ``given`` maps a parameter to a number (the whole; a fraction is worth its share of channels)
    or to a mapping from fraction to number. Names may be patterns; an exact name wins. None
    counts the elements that are updated.

    Raises:
        ProblemError: unknown parameter, a parameter or fraction without value, not a finite number.
    """
    table = infos(network)
    whole: dict[str, Any] = {}
    if given is not None:
        for key, v in given.items():
            if key not in network.owner:
                for p in match(network, key, "value"):
                    whole.setdefault(p, v)
        whole.update({key: v for key, v in given.items() if key in network.owner})
    result: dict[str, dict[float, float]] = {}
    for p, fractions in choices.items():
        op, slot = network.owner[p]
        cut = op_def(op.kind).fraction(table[op.name], slot)
        if given is not None and p not in whole:
            raise ProblemError(f"parameter {p!r} has no value; give one (0 if it is worthless){near(p, whole)}")
        v = float(network.tensor[p].elements) if given is None else whole[p]
        result[p] = {}
        for r, kept in allowed_levels(table[op.name], slot, fractions):
            if isinstance(v, Mapping):
                exact = {float(k): x for k, x in v.items()}
                if r not in exact:
                    raise ProblemError(f"parameter {p!r} has no value for fraction {r}; given: {sorted(exact)}")
                number: Any = exact[r]
            else:
                _check_value(v, f"value of {p!r}")
                number = v if kept is None or cut is None else v * kept / cut.units
            _check_value(number, f"value of {p!r} at fraction {r}")
            result[p][r] = float(number)
    return result


def resolve_ties(
    network: Network, choices: Mapping[str, Sequence[float]], groups: Iterable[Sequence[str]]
) -> tuple[tuple[str, ...], ...]:
    """Ties of parameters from groups of name patterns; an exact name wins. What may not be updated is left out.

    Raises:
        ProblemError: a pattern that matches nothing, or a parameter in two groups (named by ``Problem``).
    """
    ties = []
    for patterns in groups:
        names = dict.fromkeys(p for pattern in patterns for p in match(network, pattern, "tie"))
        tie = tuple(p for p in names if p in choices)
        if len(tie) > 1:
            ties.append(tie)
    return tuple(ties)
