"""Plans as C, compiled with the host's compiler, loaded and run: what tests of the C exporter compare with ``run``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparseplan.dtypes import bytes_of, numpy_dtype
from sparseplan.exporters.c import CExport, export
from sparseplan.plan import Plan

COMPILER = shutil.which("cc")
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off"]
_TRACE = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
#: the function that the traced build calls, forwarded to whoever listens
_HOOK = """
#include <stdint.h>
typedef void (*hook_t)(uint32_t, uint32_t, const void *, uint32_t);
static hook_t hook;
void set_hook(hook_t h);
void set_hook(hook_t h) { hook = h; }
void net_trace(uint32_t step, uint32_t parameter, const void *gradient, uint32_t bytes);
void net_trace(uint32_t step, uint32_t parameter, const void *gradient, uint32_t bytes) {
    if (hook) hook(step, parameter, gradient, bytes);
}
"""


def compile_object(folder: Path, made: CExport) -> Path:
    """The object as a board would link it."""
    out = folder / "net.o"
    flags = [*FLAGS, "-O1", "-fno-pic", "-fno-stack-protector"]
    done = subprocess.run([str(COMPILER), *flags, "-c", str(made.files[1]), "-o", str(out)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return out


class Compiled:
    """A plan's C code in this process.

    Attributes:
        gradients: of the last step, as stored, by parameter.
    """

    def __init__(
        self, plan: Plan, parameters: Mapping[str, Any], folder: Path, optimise: str = "-O0", **hyper: Any
    ) -> None:
        """``optimise``: ``-O0`` compiles in a quarter of the time, and computes some ten times slower."""
        self.plan = plan
        self.made = export(plan, parameters, folder, name="net", **hyper)
        hook, library = folder / "hook.c", folder / "net.so"
        hook.write_text(_HOOK)
        command = [str(COMPILER), *FLAGS, optimise, "-DSPARSEPLAN_TRACE", "-shared", "-fPIC", str(self.made.files[1]),
                   str(hook), "-o", str(library), "-lm"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(library))
        self.library.net_step.restype = ctypes.c_float
        self.gradients: dict[str, np.ndarray] = {}
        held = {v.tensor for v in plan.values if v.role == "parameter"}
        self.names = [p for p in plan.network.parameters if p in held]
        self._hook = _TRACE(self._traced)
        self.library.set_hook(self._hook)
        self.library.net_init()

    def _traced(self, step: int, parameter: int, gradient: int, size: int) -> None:
        arg = self.plan.steps[step].writes[0]
        assert size == bytes_of(int(np.prod(arg.shape)), arg.dtype)
        raw = np.frombuffer(ctypes.string_at(gradient, size), numpy_dtype(arg.dtype))
        self.gradients[self.names[parameter]] = raw.astype(np.float32).reshape(arg.shape)

    def step(self, x: Mapping[str, np.ndarray], target: np.ndarray | Mapping[str, np.ndarray], *more: Any) -> float:
        """``target``: of the one loss, or of each by its label."""
        there = {v.name: v.dtype for v in self.plan.values}
        judged = self.plan.problem.options.loss_steps(self.plan.network)
        targets = {s.target: target[s.label] if isinstance(target, Mapping) else target for s in judged}
        given = []
        for name in (*self.plan.network.inputs, *targets):
            if name in there:
                array = targets[name] if name in targets else x[name]
                given.append(np.ascontiguousarray(array, np.int32 if there[name] == "i32" else np.float32))
        return float(self.library.net_step(*(ctypes.c_void_p(a.ctypes.data) for a in given), *more))

    def train(
        self, x: Mapping[str, np.ndarray], target: np.ndarray | Mapping[str, np.ndarray], runs: int, lr: float
    ) -> list[float]:
        """As ``run``: the schedule on one batch after the other; accumulated, the updates at the end."""
        options = self.plan.problem.options
        fused, adam = options.gradients == "fused", options.optimizer == "adam"
        losses = []
        for i in range(runs):
            part = slice(i * options.batch, (i + 1) * options.batch)
            more = [ctypes.c_float(lr)] if fused else []
            more += [ctypes.c_uint32(i + 1)] if fused and adam else []
            labels = {n: a[part] for n, a in target.items()} if isinstance(target, Mapping) else target[part]
            losses.append(self.step({n: a[part] for n, a in x.items()}, labels, *more))
        if not fused:
            self.library.net_update(ctypes.c_float(lr), ctypes.c_uint32(runs), *([ctypes.c_uint32(1)] if adam else []))
        return losses

    def parameters(self) -> dict[str, np.ndarray]:
        found = {}
        for k, name in enumerate(self.names):
            out = np.empty(self.plan.network.tensor[name].shape, np.float32)
            assert self.library.net_read(k, out.ctypes.data_as(ctypes.c_void_p)) == out.size
            found[name] = out
        return found
