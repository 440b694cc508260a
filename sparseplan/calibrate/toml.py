"""A device as TOML text that ``load_device`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sparseplan.device import Device
from sparseplan.rates import tables_to_data


def device_to_toml(device: Device) -> str:
    """The whole device: levels, rates, sources. ``parse_device`` of it gives an equal one."""
    lines = [_pair("name", device.name), _pair("title", device.title)]
    if device.double_buffer:
        lines.append("double_buffer = true")
    if device.clock_hz is not None:
        lines.append(_pair("clock_hz", device.clock_hz))
    if device.sources:
        lines += ["sources = [", *(f"  {_text(s)}," for s in device.sources), "]"]
    if device.notes:
        lines.append(f"notes = {_long(device.notes)}")
    for level in device.levels:
        given: dict[str, Any] = {"bytes": level.bytes, "reserved": level.reserved or None,
                                 "alignment": level.alignment, "source": level.source or None}  # fmt: skip
        lines += ["", f"[levels.{level.name}]", *_pairs(given)]
    for table, rows in tables_to_data(device.rows()).items():
        for row in rows:
            lines += ["", f"[[{table}]]", *_pairs(row)]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [_pair(k, v) for k, v in values.items() if v is not None]


def _pair(key: str, value: str | float) -> str:
    return f"{key} = {_text(value) if isinstance(value, str) else repr(value)}"


def _text(text: str) -> str:
    """A basic string: JSON's escapes, and the one control character that JSON leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _long(text: str) -> str:
    """Text of several lines stays on several lines."""
    if "\n" not in text:
        return _text(text)
    # a line end right behind the quotes does not count
    return '"""\n' + "\n".join(_text(line)[1:-1] for line in text.split("\n")) + '"""'
