"""Joules of work on a device, from its power or from its MACs and bytes; and caps in cycles.

    * With a row of ``power_watts`` for ``active``, energy is that power times the time.
    * Else it is the sum of ``joules_per_mac`` over MACs and ``joules_per_byte`` over bytes moved
      between levels, plus the power of ``idle`` times the time, where that is known. Kernels without
      MACs then take what their transfers take.

What has no row is named, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from sparseplan.costs.cycles import Missing, Transfer, Work, explain, legs, missing_rows, price
from sparseplan.device import Device
from sparseplan.errors import DeviceError


def basis_of(device: Device, works: Iterable[Work]) -> str:
    """What joules follow from, in words; empty where they are unknown."""
    if (watts := device.watts("active")) is not None:
        return f"{watts:g} W while it trains"
    if energy_gaps(device, works):
        return ""
    idle = device.watts("idle")
    return "joules a MAC and a byte" + ("" if idle is None else f", and {idle:g} W throughout")


def energy_gaps(device: Device, works: Iterable[Work]) -> tuple[Missing, ...]:
    """Rows that energy would need besides what time needs: of power, or else of MACs and bytes."""
    if device.watts("active") is not None:
        return ()
    gaps = []
    for work in works:
        if work.macs and device.joules_per_mac(work.dtype) is None:
            gaps.append(Missing("joules_per_mac", (work.dtype,)))
        for t in work.transfers:
            if t.bytes:
                pairs = legs(device, t)
                gaps += [Missing("joules_per_byte", p) for p in pairs if _byte_energy(device, p, t) is None]
    if not gaps:
        return ()
    power = Missing("power_watts", ("active",))
    if not device.mac_energy and not device.byte_energy:
        return (power,)  # one figure of power would do
    return (power, *dict.fromkeys(gaps))


def joules_of(device: Device, works: Iterable[Work], cycles: int | None) -> float | None:
    """Joules of works that take ``cycles`` in all; None where a row is missing."""
    listed = list(works)
    if energy_gaps(device, listed):
        return None
    timed, active = device.watts("active") or device.watts("idle"), device.watts("active")
    if timed is not None and (cycles is None or device.clock_hz is None):
        return None
    waiting = timed * cycles / device.clock_hz if timed is not None and cycles is not None and device.clock_hz else 0.0
    return waiting if active is not None else waiting + sum(_moved_and_computed(device, w) for w in listed)


def picojoules_of(device: Device, work: Work) -> int:
    """Energy of one step in picojoules, rounded up: an integer for a constraint.

    Raises:
        DeviceError: naming the rows that the device lacks.
    """
    gaps = energy_gaps(device, [work])
    if device.clock_hz is None and (device.power or gaps):
        gaps = (*gaps, Missing("clock_hz"))
    if device.power:
        gaps = (*gaps, *missing_rows(device, work))
    if gaps:
        raise DeviceError(explain(device, gaps, "energy"))
    joules = joules_of(device, [work], price(device, work).total if device.power else None)
    assert joules is not None  # nothing is missing
    return math.ceil(joules * 1e12)


def cycles_within(device: Device, seconds: float | None = None, joules: float | None = None) -> int:
    """The most cycles that stay within a cap on seconds, on joules, or both: a cap for a constraint.

    Joules need a row of active power; without one, add up ``picojoules_of`` instead.

    Raises:
        DeviceError: the clock, or the power, is unknown; or no cap is given, or one that is not positive.
    """
    caps = []
    for name, cap, watts in (("seconds", seconds, 1.0), ("joules", joules, device.watts("active"))):
        if cap is None:
            continue
        if isinstance(cap, bool) or not isinstance(cap, (int, float)) or not 0 < cap < 1e15:
            raise DeviceError(f"{name}={cap!r} must be a number above 0")
        gaps = [] if device.clock_hz is not None else [Missing("clock_hz")]
        if watts is None:
            gaps.append(Missing("power_watts", ("active",)))
        if gaps or watts is None or device.clock_hz is None:
            raise DeviceError(explain(device, gaps, "energy" if name == "joules" else "time"))
        caps.append(math.floor(Fraction(cap) / Fraction(watts) * Fraction(device.clock_hz)))
    if not caps:
        raise DeviceError("seconds=None and joules=None: give one of them")
    return min(caps)


def _moved_and_computed(device: Device, work: Work) -> float:
    joules = work.macs * (device.joules_per_mac(work.dtype) or 0.0)
    for t in work.transfers:
        joules += t.bytes * sum(_byte_energy(device, pair, t) or 0.0 for pair in legs(device, t))
    return joules


def _byte_energy(device: Device, pair: tuple[str, str], transfer: Transfer) -> float | None:
    """Joules a byte; of the dearer direction where bytes go both ways."""
    ways = [pair, (pair[1], pair[0])] if transfer.both else [pair]
    found = [device.joules_per_byte(*way) for way in ways]
    return None if None in found else max(e for e in found if e is not None)
