"""Malformed and hostile files, each with the command that is to refuse it. Run as a script: tries them all.

One process with a limit on its memory tries case after case, under an alarm that no honest refusal reaches,
and prints what became of each as JSON.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import sparseplan as sp
from sparseplan.cli import main
from sparseplan.device import load_device
from sparseplan.importers.spec import to_dict
from sparseplan.planfile import plan_to_dict

Case = tuple[str, str, bytes]
#: bytes that a process may have beyond what it has once everything is imported
HEADROOM = 2**30
#: seconds after which a command hangs
ALARM = 30


def _net() -> sp.Network:
    b = sp.NetworkBuilder("small")
    x = b.relu(b.conv(b.input("x", (2, 6, 6)), 4, 3, padding=1, name="a"))
    y = b.conv(x, 4, 3, padding=1, name="b")
    return b.build(b.conv(b.add([x, y]), 1, 1, name="c"))


def _set(data: Any, path: str, value: Any) -> bytes:
    """``data`` with one entry replaced (``...``: removed)."""
    data = copy.deepcopy(data)
    *way, last = [int(p) if p.lstrip("-").isdigit() else p for p in path.split(".")]
    node = data
    for key in way:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return json.dumps(data).encode()


def _garbage(text: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """What may become of any text on its way."""
    rng = np.random.default_rng(seed)
    yield "empty", b""
    yield "truncated in the middle", text[: len(text) // 2]
    yield "truncated by one", text[:-1]
    yield "zeros", bytes(200)
    yield "random bytes", rng.bytes(500)
    yield "UTF-16", text.decode().encode("utf-16")
    yield "a picture", b"\x89PNG\r\n\x1a\n" + rng.bytes(300)
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."
    for i in range(4):  # a NUL is in no text
        at = int(rng.integers(len(text)))
        yield f"a flipped byte at {at}", text[:at] + bytes([0 if i % 2 else 0xFF]) + text[at + 1 :]


def specs() -> Iterator[Case]:
    """Networks as JSON."""
    data = to_dict(_net())
    for label, raw in _garbage(json.dumps(data).encode(), 1):
        yield label, "inspect", raw
    for label, path, value in [
        ("huge extents", "tensors.0.shape", [2**20, 2**20, 2**20]),
        ("an extent of 0", "tensors.0.shape", [2, 0, 6]),
        ("a negative extent", "tensors.0.shape", [2, -6, 6]),
        ("an extent that is no integer", "tensors.0.shape", [2, 6.5, 6]),
        ("a rank of a thousand", "tensors.0.shape", [1] * 1000),
        ("a cycle", "ops.0.inputs", ["c.out"]),
        ("an op that reads itself", "ops.0.inputs", ["a.out"]),
        ("no ops", "ops", []),
        ("ops that are no list", "ops", {"a": 1}),
        ("an unknown kind", "ops.0.kind", "convolution"),
        ("an unknown attribute", "ops.0.attrs.strides", 2),
        ("a stride of 0", "ops.0.attrs.stride", 0),
        ("channels beyond memory", "ops.0.attrs.out_channels", 2**50),
        ("a missing input", "ops.0.inputs", ["nobody"]),
        ("an output twice", "ops.1.output", "a.out"),
        ("a name of a megabyte", "name", "x" * 2**20),
        ("a name that does not print", "name", "a\x1b[2J"),
        ("a name that is a number", "name", 7),
        ("another version", "version", 99),
        ("a version that is true", "version", True),
        ("no outputs", "outputs", []),
        ("an unknown output", "outputs", ["d.out"]),
        ("a parameter as input", "ops.0.inputs", ["a.weight"]),
        ("an unknown dtype", "tensors.0.dtype", "float99"),
        ("int8 without a scale", "tensors.0.dtype", "int8"),
        ("another kind of file", "sparseplan", "plan"),
        ("an unknown key", "extra", 1),
    ]:
        yield label, "inspect", _set(data, path, value)
    text = json.dumps(data)
    yield "nesting without end", "inspect", b"[" * 200_000
    yield "a key twice", "inspect", text.replace('"version": 1', '"version": 1, "version": 1').encode()
    yield "not a number", "inspect", text.replace('"version": 1', '"version": NaN').encode()
    yield "a number of a million digits", "inspect", text.replace("1", "9" * 10**6, 1).encode()
    yield "longer than any spec", "inspect", b" " * (17 * 2**20)
    shared = {**data, "ops": [{"name": f"r{i}", "kind": "relu", "inputs": [f"r{i - 1}.out"]} for i in range(30_000)]}
    yield "thirty thousand ops", "inspect", json.dumps(shared).encode()


def plans() -> Iterator[Case]:
    """Plans as JSON."""
    data = plan_to_dict(sp.plan(_net(), "gap9", l2="8kB", dtype="fp32"))
    for label, raw in _garbage(json.dumps(data).encode(), 2):
        yield label, "verify", raw
    for label, path, value in [
        ("no steps", "steps", ...),
        ("steps that are text", "steps", "all"),
        ("a step of an unknown kind", "steps.0.kind", "teleport"),
        ("a buffer at a negative offset", "buffers.0.offset", -4),
        ("a buffer that ends before it starts", "buffers.0.stop", 0),
        ("a buffer of no bytes", "buffers.0.bytes", 0),
        ("a buffer of a petabyte", "buffers.0.bytes", 2**50),
        ("a buffer of a value that is not there", "buffers.0.value", "ghost"),
        ("an unknown status", "status", "PERFECT"),
        ("an objective that is text", "objective", "best"),
        ("a future version", "version", 1000),
        ("no problem", "problem", ...),
        ("an unknown level", "buffers.0.level", "L9"),
        ("an unknown key", "surprise", {}),
        ("a network in it that is malformed", "problem.network.ops", []),
        ("a fraction of 7", "update", {"a.weight": 7}),
        ("an update of what is not there", "update", {"ghost": 1}),
        ("values of the wrong type", "values", 3),
    ]:
        yield label, "verify", _set(data, path, value)


def devices() -> Iterator[Case]:
    """Devices as TOML."""
    text = (
        'name = "mine"\ntitle = "Mine"\nsources = ["me"]\n[levels.L2]\nbytes = "256KiB"\nalignment = 4\nsource = "me"\n'
    )
    for label, raw in _garbage(text.encode(), 3):
        if not label.startswith("truncated by"):  # a line's end is no loss
            yield label, "plan", raw
    for label, old, new in [
        ("no levels", "[levels.L2]", "[level.L2]"),
        ("bytes below 0", '"256KiB"', "-1"),
        ("bytes that are no size", '"256KiB"', '"lots"'),
        ("bytes beyond counting", '"256KiB"', '"999999999999999999999GB"'),
        ("an alignment of 3", "alignment = 4", "alignment = 3"),
        ("an alignment that is text", "alignment = 4", 'alignment = "4"'),
        ("an unknown key", 'title = "Mine"', 'title = "Mine"\ncolour = "red"'),
        ("a key twice", "alignment = 4", "alignment = 4\nalignment = 4"),
        ("an unknown level", "[levels.L2]", "[levels.L7]"),
        ("a name that is a list", 'name = "mine"', 'name = ["mine"]'),
        ("bytes that are true", '"256KiB"', "true"),
        ("bytes that are infinite", '"256KiB"', "inf"),
        ("a date", '"256KiB"', "1979-05-27"),
        ("a clock below 0", 'title = "Mine"', 'title = "Mine"\nclock_hz = -5'),
        ("a table without end", "[levels.L2]", "[[levels.L2]]"),
    ]:
        assert old in text, label
        yield label, "plan", text.replace(old, new).encode()
    yield "nesting without end", "plan", b"x = " + b"[" * 200_000
    yield "dots without end", "plan", b"a" + b".a" * 100_000 + b" = 1"
    yield "a string without end", "plan", b'name = """' + b"x" * 2**22


def argv(command: str, path: Path) -> list[str]:
    """The command that reads the file."""
    if command == "plan":
        return ["plan", "upydnet", "--device", str(path)]
    return [command, str(path)]


SUFFIX = {"inspect": "json", "verify": "json", "plan": "toml"}


def every() -> list[tuple[str, Case]]:
    """All cases with what they are files of."""
    return [(kind, case) for kind, make in (("spec", specs), ("plan", plans), ("device", devices)) for case in make()]


def _alarm(signum: int, frame: object) -> None:
    raise TimeoutError(f"no answer within {ALARM} s")


def attempt(kind: str, case: Case, path: Path) -> dict[str, Any]:
    """What a command does with a file."""
    label, command, raw = case
    path.write_bytes(raw)
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(ALARM)
    code: object = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv(command, path))
    except BaseException:
        code = traceback.format_exc(limit=-3)
    finally:
        signal.alarm(0)
    return {"kind": kind, "label": label, "file": path.name, "code": code, "err": err.getvalue(), "out": out.getvalue()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cases = every()
    load_device("gap9")
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows = [attempt(kind, case, folder / f"{i}.{SUFFIX[case[1]]}") for i, (kind, case) in enumerate(cases)]
    print(json.dumps(rows))
