"""Kernels against PyTorch eager, on one thread: every layer of a network, and whole training steps.

    python benchmarks/kernels.py [--network upydnet] [--batch 1 16] [--repeats 20] [--steps-only]

Each figure is the least of ``repeats`` runs, in CPU milliseconds of this thread, so that other
processes disturb it little; the two sides take turns within one run. ``ratio`` is ours over
PyTorch's. A step is forward, masked L1 loss, the gradients of the updated parameters and plain
SGD. Without PyTorch the figures stand alone.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from sparseplan import zoo
from sparseplan.builder import init_parameters
from sparseplan.network import Network
from sparseplan.ops import OpInfo, infos, loss_def, op_def

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None  # type: ignore[assignment]

Run = Callable[[], object]
Arrays = dict[str, np.ndarray]
RATE = np.float32(1e-9)


def least(ours: Run, theirs: Run | None, repeats: int) -> tuple[float, float]:
    """Least milliseconds of either; NaN for what is absent."""
    best = [float("inf"), float("inf")]
    for _ in range(repeats + 1):  # the first warms up caches, as the least tells
        for side, run in enumerate((ours, theirs)):
            if run is not None:
                start = time.thread_time_ns()
                run()
                best[side] = min(best[side], (time.thread_time_ns() - start) / 1e6)
    return best[0], best[1] if theirs is not None else float("nan")


def row(name: str, ours: float, theirs: float) -> str:
    return f"{name:44} {ours:9.3f} {theirs:9.3f} {ours / theirs:7.2f}"


def layers(network: Network, batch: int, repeats: int) -> None:
    """One row a (distinct layer, pass) of convolutions and activations."""
    rng = np.random.default_rng(0)
    seen = set()
    for info in infos(network).values():
        key = (info.kind, info.inputs, info.output, tuple(sorted(info.attrs.items())))
        if key in seen or info.kind not in ("conv", "conv_transpose", "leaky_relu"):
            continue
        seen.add(key)
        definition = op_def(info.kind)
        x = rng.standard_normal((batch, *info.inputs[0]), np.float32)
        dy = rng.standard_normal((batch, *info.output), np.float32)
        params = {slot: rng.standard_normal(shape, np.float32) for slot, shape in info.params.items()}
        shape = f"{info.kind} {'x'.join(map(str, info.inputs[0]))} > {'x'.join(map(str, info.output))}"
        theirs = torch_passes(info, x, dy, params) if torch is not None else {}
        saved = dict(params)
        if info.kind == "leaky_relu":
            saved = {"mask": x > 0}
        ours: dict[str, Run] = {
            "forward": lambda d=definition, i=info, x=x, p=params: d.forward(i, [x], p),
            "x0": lambda d=definition, i=info, dy=dy, s=saved: d.grad_input(i, 0, dy, s),
        }
        if params:
            ours["weight, bias"] = lambda d=definition, i=info, dy=dy, x=x: (
                d.grad_param(i, "weight", dy, {"x0": x}),
                d.grad_param(i, "bias", dy, {}),
            )
        for pass_, run in ours.items():
            print(row(f"{shape} {pass_}", *least(run, theirs.get(pass_), repeats)))


def torch_passes(info: OpInfo, x: np.ndarray, dy: np.ndarray, params: Mapping[str, np.ndarray]) -> dict[str, Run]:
    """The same passes in PyTorch, each alone."""
    a, tx, tdy = info.attrs, torch.tensor(x), torch.tensor(dy)
    aten = torch.ops.aten
    if info.kind == "leaky_relu":
        slope = a["slope"]
        return {
            "forward": lambda: F.leaky_relu(tx, slope),
            "x0": lambda: aten.leaky_relu_backward(tdy, tx, slope, False),
        }
    weight, bias = (torch.tensor(params[slot]) for slot in ("weight", "bias"))
    turned = info.kind == "conv_transpose"
    pads, extra = list(a["padding"][:2]), list(a.get("output_padding", (0, 0)))
    fixed = (list(a["stride"]), pads, list(a["dilation"]), turned, extra, a["groups"])

    def backward(wanted: list[bool]) -> Run:
        return lambda: aten.convolution_backward(tdy, tx, weight, list(bias.shape), *fixed, wanted)

    return {
        "forward": lambda: aten.convolution(tx, weight, bias, *fixed),
        "x0": backward([True, False, False]),
        "weight, bias": backward([False, True, True]),
    }


def step(
    network: Network,
    resolved: Mapping[str, OpInfo],
    parameters: Arrays,
    x: np.ndarray,
    target: np.ndarray,
    updated: frozenset[str],
) -> None:
    """A training step by the kernels alone."""
    at: Arrays = {network.inputs[0]: x}
    flows: set[str] = set()
    for op in network.ops:
        params = {slot: parameters[p] for slot, p in op.params.items()}
        at[op.output] = op_def(op.kind).forward(resolved[op.name], [at[t] for t in op.inputs], params)
        if flows.intersection(op.inputs) or updated.intersection(op.params.values()):
            flows.add(op.output)
    _, dy = loss_def("l1").value_and_grad(at[network.outputs[0]], target, {})
    gradients: Arrays = {network.outputs[0]: dy}
    for op in reversed(network.ops):
        if op.output not in flows:
            continue
        definition, info, dy = op_def(op.kind), resolved[op.name], gradients.pop(op.output)
        for i, t in enumerate(op.inputs):
            if t not in flows:
                continue
            need = definition.needs_for_input(info, i)[0]
            saved = {
                tag: definition.make_aux(info, tag, "y", at[op.output]) if tag == "mask" else parameters[op.params[tag]]
                for tag in need
            }
            dx = definition.grad_input(info, i, dy, saved)
            gradients[t] = gradients[t] + dx if t in gradients else dx
        for slot, p in op.params.items():
            if p in updated:
                gradient = definition.grad_param(info, slot, dy, {"x0": at[op.inputs[0]]})
                gradient *= RATE
                parameters[p] -= gradient


def torch_step(network: Network, parameters: Mapping[str, torch.Tensor], x: torch.Tensor, target: torch.Tensor) -> None:
    """The same step in PyTorch eager; parameters that require gradients are updated."""
    at = {network.inputs[0]: x}
    for op in network.ops:
        ins, a = [at[t] for t in op.inputs], op.attrs
        p = {slot: parameters[name] for slot, name in op.params.items()}
        if op.kind == "conv":
            at[op.output] = F.conv2d(ins[0], p["weight"], p["bias"], a["stride"], a["padding"])
        elif op.kind == "conv_transpose":
            at[op.output] = F.conv_transpose2d(ins[0], p["weight"], p["bias"], a["stride"], a["padding"])
        elif op.kind == "leaky_relu":
            at[op.output] = F.leaky_relu(ins[0], a["slope"])
        elif op.kind == "relu":
            at[op.output] = F.relu(ins[0])
        else:
            at[op.output] = torch.cat(ins, 1)
    valid = ~torch.isnan(target)
    (at[network.outputs[0]] - target)[valid].abs().mean().backward()
    with torch.no_grad():
        for p in parameters.values():
            if p.requires_grad:
                p -= float(RATE) * p.grad
                p.grad = None


def steps(batch: int, repeats: int) -> None:
    """Rows of whole training steps of uPyD-Net."""
    network = zoo.upydnet()
    resolved = infos(network)
    rng = np.random.default_rng(0)
    x = rng.random((batch, 3, 48, 48), np.float32)
    target = rng.random((batch, 1, 48, 48), np.float32)
    target[:, :, ::7] = np.nan
    for name, prefixes in (("all parameters", ("",)), ("decoder 0 and its upsampler", ("decoder0.", "ups0."))):
        updated = frozenset(p for p in network.parameters if p.startswith(prefixes))
        parameters = init_parameters(network)
        theirs = None
        if torch is not None:
            theirs_at = {p: torch.tensor(a, requires_grad=p in updated) for p, a in parameters.items()}
            theirs = lambda at=theirs_at: torch_step(network, at, torch.tensor(x), torch.tensor(target))  # noqa: E731
        ours = lambda at=parameters, u=updated: step(network, resolved, at, x, target, u)  # noqa: E731
        print(row(f"step, {name}", *least(ours, theirs, repeats)))


def main() -> None:
    """Print versions, then tables for every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="upydnet", help="whose layers to time")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps-only", action="store_true")
    args = parser.parse_args()
    with threadpool_limits(limits=1):
        found = [p for p in threadpool_info() if p["user_api"] == "blas" and "openblas" in p["internal_api"]]
        blas = ", ".join(f"OpenBLAS {p['version']} ({p['architecture']})" for p in found) or "another BLAS"
        versions = f"Python {platform.python_version()}, NumPy {np.__version__}, {blas}"
        if torch is not None:
            torch.set_num_threads(1)
            versions += f", PyTorch {torch.__version__}"
        print(versions)
        for batch in args.batch:
            print(f"\n{f'batch {batch}, one thread':44} {'ours ms':>9} {'torch ms':>9} {'ratio':>7}")
            if not args.steps_only:
                layers(zoo.get(args.network), batch, args.repeats)
            steps(batch, args.repeats)


if __name__ == "__main__":
    main()
