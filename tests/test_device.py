"""Devices: presets, files of the user's, budgets, and what is said of bad ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseplan.device import Device, DmaRate, Level, MacRate, custom, load_device, parse_device, presets
from sparseplan.errors import DeviceError
from sparseplan.jsonio import Node
from sparseplan.rates import TABLES, ByteEnergy, DmaStart, MacEnergy, Power, fields_of, tables_from_node, tables_to_data

KIB = 1024
EXPECTED = {  # (L1, L2, flash)
    "gap8": (64 * KIB, 512 * KIB, None),
    "gap9": (128 * KIB, 0x170000, None),
    "stm32f746": (None, 320 * KIB, 1024 * KIB),
    "stm32h743": (None, 512 * KIB, 2048 * KIB),
    "stm32l4r9": (None, 640 * KIB, 2048 * KIB),
    "nrf52840": (None, 256 * KIB, 1024 * KIB),
    "esp32s3": (None, 480 * KIB, None),
    "rp2040": (None, 264 * KIB, None),
    "rp2350": (None, 520 * KIB, None),
    "max78000": (None, 128 * KIB, 512 * KIB),
}

GOOD = """
name = "mine"
title = "My board"
double_buffer = true
clock_hz = 1.6e8
sources = ["a datasheet"]
notes = "two banks"

[levels.L1]
bytes = "64KiB"
reserved = "1kB"
alignment = 8

[levels.L2]
bytes = 500000
source = "datasheet, section 3"

[[mac_per_cycle]]
op = "*"
pass = "*"
dtype = "bf16"
value = 2

[[mac_per_cycle]]
op = "conv2d"
pass = "*"
dtype = "*"
value = 3.5

[[dma_bytes_per_cycle]]
from = "L2"
to = "L1"
value = 8
"""


def test_presets() -> None:
    assert set(presets()) == set(EXPECTED)
    assert presets() == tuple(sorted(presets()))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_preset_is_whole_and_has_sources(name: str) -> None:
    device = load_device(name)
    l1, l2, flash = EXPECTED[name]
    assert device.name == name
    assert device.title
    assert device.sources
    assert device.notes
    assert all(level.source for level in device.levels)
    assert (device.level("L1").bytes if device.has("L1") else None) == l1
    assert device.level("L2").bytes == l2
    assert device.level("flash").bytes == flash
    assert device.double_buffer == device.has("L1")
    assert all(level.alignment == 4 for level in device.levels)
    assert all(fields_of(row).get("source") for row in device.rows())
    assert pickle.loads(pickle.dumps(device)) == device
    assert hash(device) == hash(load_device(name))


def test_what_is_reserved_is_not_usable() -> None:
    assert load_device("esp32s3").level("L2").usable == 448 * KIB
    assert load_device("gap9").level("L3").usable is None


@pytest.mark.parametrize("spelling", ["GAP9", "gap-9", "Gap_9", "gap 9"])
def test_spelling_of_names(spelling: str) -> None:
    assert load_device(spelling) is load_device("gap9")


def test_a_device_is_taken_as_it_is() -> None:
    device = load_device("rp2040")
    assert load_device(device) is device


def test_a_file_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    device = load_device(path)
    assert device == load_device(str(path)) == parse_device(GOOD)
    assert device.level("L1") == Level("L1", 65536, 1000, 8)
    assert device.level("L1").usable == 64536
    assert device.level("L2").bytes == 500000
    assert device.clock_hz == 1.6e8
    assert device.mac_per_cycle("conv2d", "forward", "bf16") == 3.5  # the op weighs more than the dtype
    assert device.mac_per_cycle("linear", "x0", "bf16") == 2
    assert device.mac_per_cycle("linear", "x0", "fp32") is None
    assert device.dma_bytes_per_cycle("L2", "L1") == 8
    assert device.dma_bytes_per_cycle("L1", "L2") is None


MORE = """
[[bytes_per_cycle]]
op = "*"
pass = "update"
dtype = "bf16"
value = 1.5
source = "a bench"

[[start_cycles]]
op = "*"
pass = "*"
dtype = "*"
value = 90

[[dma_start_cycles]]
from = "L2"
to = "L1"
value = 30

[[power_watts]]
mode = "active"
value = 0.05

[[joules_per_mac]]
dtype = "*"
value = 4e-12

[[joules_per_mac]]
dtype = "fp32"
value = 9e-12

[[joules_per_byte]]
from = "L3"
to = "L2"
value = 1e-10
"""


def test_tables_of_speed_and_energy() -> None:
    device = parse_device(GOOD + MORE)
    assert {type(row).table for row in device.rows()} == set(TABLES)
    assert device.dma_start_cycles("L2", "L1") == 30
    assert device.dma_start_cycles("L1", "L2") is None
    assert device.watts("active") == 0.05
    assert device.watts("idle") is None
    assert device.joules_per_mac("bf16") == 4e-12
    assert device.joules_per_mac("fp32") == 9e-12
    assert device.joules_per_byte("L3", "L2") == 1e-10
    (row,) = device.byte_rates
    assert fields_of(row) == {"op": "*", "pass": "update", "dtype": "bf16", "value": 1.5, "source": "a bench"}
    assert fields_of(device.dma_starts[0]) == {"from": "L2", "to": "L1", "value": 30}
    data = tables_to_data(device.rows())
    again = tables_from_node(Node(json.loads(json.dumps(data)), "rows", DeviceError))
    assert dataclasses.replace(device, **again) == device
    assert again["byte_rates"][0].source == "a bench"
    with pytest.raises(DeviceError, match=r"rows: power_watts\[0\]: key 'value' is missing; give it"):
        tables_from_node(Node({"power_watts": [{"mode": "active"}]}, "rows", DeviceError))
    with pytest.raises(DeviceError, match=r"power_watts has two rows for active; keep one"):
        parse_device(GOOD + MORE + '[[power_watts]]\nmode = "active"\nvalue = 1\n')
    with pytest.raises(DeviceError, match=r"key 'power_watts.watts' is unknown"):
        parse_device(GOOD + '[[power_watts]]\nmode = "active"\nwatts = 1\n')


def test_budgets() -> None:
    gap9 = load_device("gap9")
    assert gap9.with_budget() == gap9
    device = gap9.with_budget(l1="64KiB", l2="1.2MB")
    assert (device.level("L1").bytes, device.level("L2").bytes) == (65536, 1_200_000)
    assert device.level("L2").alignment == 4
    assert "gap9: 1,507,328 B" in device.level("L2").source
    assert {level.alignment for level in gap9.with_budget(alignment=16).levels} == {16}
    added = load_device("rp2040").with_budget(l1=1000)
    assert [level.name for level in added.levels] == ["L1", "L2", "flash"]
    assert custom("8KiB", "1MB").level("L1").bytes == 8192
    assert not custom(l2=1000).has("L1")
    assert custom().level("L2").bytes is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_device("gap99"), ["'gap99'", "did you mean", "'gap9'", ".toml"]),
        (lambda: load_device("cray"), ["'cray'", "gap8"]),
        (lambda: load_device(""), ["device=''"]),
        (lambda: load_device("nowhere/none.toml"), ["none.toml", "cannot be read", "No such file"]),
        (lambda: load_device("a\0.toml"), ["cannot be read"]),
        (lambda: load_device(9), ["device=9"]),  # type: ignore[arg-type]
        (lambda: custom(l2="12 parsecs"), ["l2", "'12 parsecs'", "128KiB"]),
        (lambda: custom(l1="-4"), ["l1", "'-4'"]),
        (lambda: custom(l1=-4), ["l1", "-4", "negative"]),
        (lambda: custom(l2="9" * 5000), ["l2"]),
        (lambda: custom(l2="1000000GiB"), ["l2", "2**40"]),
        (lambda: custom(l2=0), ["l2=0", "above 0"]),
        (lambda: custom(l2=True), ["l2", "True"]),
        (lambda: load_device("esp32s3").with_budget(l2="16KiB"), ["L2", "reserved=32768", "16384"]),
        (lambda: load_device("gap9").with_budget(alignment=3), ["alignment=3", "power of two"]),
        (lambda: load_device("gap9").with_budget(alignment=0), ["alignment=0"]),
        (lambda: load_device("gap9").level("L9"), ["'gap9'", "'L9'", "L1, L2, L3, flash"]),
        (lambda: load_device("rp2040").level("L1"), ["'rp2040'", "L2, flash"]),
        (lambda: Level("L4"), ["'L4'"]),
        (lambda: Level("L1", 2.5), ["bytes=2.5", "integer"]),  # type: ignore[arg-type]
        (lambda: Level("L1", None, -1), ["reserved=-1", "negative"]),
        (lambda: Device("x", "", ()), ["'x'", "no level L2"]),
        (lambda: Device("x", "", (Level("L2"), Level("L2"))), ["L2 is given twice"]),
        (lambda: Device("x", "", (Level("L2"), Level("L1"))), ["out of order"]),
        (lambda: Device("", "", (Level("L2"),)), ["name=''"]),
        (lambda: MacRate("*", "*", "fp33", 1.0), ["'fp33'", "did you mean"]),
        (lambda: MacRate("*", "*", "*", 0), ["value=0", "positive"]),
        (lambda: MacRate("*", "*", "*", float("nan")), ["value=nan"]),
        (lambda: DmaRate("L2", "L2", 1.0), ["'L2'", "two levels"]),
        (lambda: DmaRate("L2", "L0", 1.0), ["'L0'"]),
        (lambda: DmaStart("L2", "L1", -5), ["dma_start_cycles", "value=-5", "positive"]),
        (lambda: ByteEnergy("L2", "L2", 1.0), ["joules_per_byte", "'L2'", "two levels"]),
        (lambda: Power("asleep", 1.0), ["mode='asleep'", "active"]),
        (lambda: MacEnergy("bf17", 1.0), ["joules_per_mac", "'bf17'", "did you mean"]),
        (lambda: MacRate("*", "*", "*", 1.0, 3), ["mac_per_cycle", "source=3"]),  # type: ignore[arg-type]
    ],
)
def test_errors_name_the_culprit(call, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DeviceError) as error:
        call()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "mine"', "", ["'name'", "missing"]),
        ('name = "mine"', "name = 3", ["name=3", "string"]),
        ('name = "mine"', 'name = "mine"\nnaem = 1', ["'naem'", "unknown", "'name'"]),
        ("[levels.L2]\nbytes = 500000", "[levels.l2]\nbytes = 500000", ["levels.l2", "L2"]),
        ("bytes = 500000", "bytes = -1", ["levels.L2.bytes", "-1", "negative"]),
        ("bytes = 500000", 'bytes = "-3kB"', ["levels.L2.bytes", "-3kB"]),
        ("bytes = 500000", 'bytes = "12 parsecs"', ["levels.L2.bytes", "12 parsecs"]),
        ("bytes = 500000", "bytes = 1.5", ["levels.L2.bytes", "1.5"]),
        ("bytes = 500000", "bytes = true", ["levels.L2.bytes", "True"]),
        ("bytes = 500000", "bytes = [1]", ["levels.L2.bytes", "[1]"]),
        ("bytes = 500000", "bytes = 99999999999999999999", ["levels.L2.bytes", "2**40"]),
        ("bytes = 500000", "byte = 500000", ["levels.L2.byte", "'bytes'"]),
        ("alignment = 8", "alignment = 6", ["L1", "alignment=6"]),
        ("alignment = 8", 'alignment = "8"', ["L1", "alignment='8'"]),
        ('reserved = "1kB"', 'reserved = "65KiB"', ["L1", "reserved=66560", "65536"]),
        ("double_buffer = true", 'double_buffer = "yes"', ["double_buffer='yes'"]),
        ("clock_hz = 1.6e8", "clock_hz = nan", ["clock_hz=nan"]),
        ("clock_hz = 1.6e8", "clock_hz = -1", ["clock_hz=-1"]),
        ("clock_hz = 1.6e8", "clock_hz = 1979-05-27", ["clock_hz", "number"]),
        ('sources = ["a datasheet"]', 'sources = "a datasheet"', ["sources", "list"]),
        ('sources = ["a datasheet"]', "sources = [1]", ["sources", "list"]),
        ('dtype = "bf16"', 'dtype = "bf17"', ["'bf17'", "'bf16'"]),
        ('dtype = "bf16"', "", ["mac_per_cycle.dtype", "missing"]),
        ("value = 8", "value = inf", ["value=inf"]),
        ('op = "conv2d"\npass = "*"\ndtype = "*"', 'op = "*"\npass = "*"\ndtype = "bf16"', ["two rows"]),
        ("[[dma_bytes_per_cycle]]", "[dma_bytes_per_cycle]", ["dma_bytes_per_cycle", "rows"]),
        ("[levels.L1]", "[levels.L1", ["not valid TOML"]),
        ("bytes = 500000", "bytes = " + "9" * 5000, ["TOML"]),
    ],
)
def test_malformed_files(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(DeviceError) as error:
        load_device(path)
    for word in ["bad.toml", *words]:
        assert word in str(error.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="not UTF-8"):
        load_device(path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(DeviceError, match="over 1,048,576 B"):
        load_device(path)
    with pytest.raises(DeviceError, match="cannot be read"):
        load_device(tmp_path)
    with pytest.raises(DeviceError, match="TOML"):
        parse_device("a = " + "[" * 10_000)
    with pytest.raises(DeviceError, match="line 2 has 100,004 characters; the most is 16,384"):
        parse_device("\na = " + "[" * 100_000)


VALUES = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.sampled_from(["L2", "1kB", "-1", "*", "bf16", ""])),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return str(value)


LINES = [k for k, line in enumerate(GOOD.splitlines()) if " = " in line]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LINES), VALUES)
def test_any_value_is_read_or_refused(k: int, value: object) -> None:
    lines = GOOD.splitlines()
    lines[k] = lines[k].split(" = ")[0] + " = " + toml(value)
    with contextlib.suppress(DeviceError):
        device = parse_device("\n".join(lines))
        assert dataclasses.replace(device) == device


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=8))
def test_any_text_is_read_or_refused(start: int, length: int, text: str) -> None:
    with contextlib.suppress(DeviceError):
        parse_device(GOOD[:start] + text + GOOD[start + length :])


def test_messages_stay_short() -> None:
    for call in (lambda: load_device("x" * 10**5), lambda: parse_device(f"{'k' * 10**5} = 1")):
        with pytest.raises(DeviceError) as error:
            call()
        assert len(str(error.value)) < 400
