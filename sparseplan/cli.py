"""The command line. Bad input: one message on stderr, exit code 2. No plan: exit code 1."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from sparseplan import api, report, zoo
from sparseplan.check import CheckReport, check
from sparseplan.demo import SAMPLES, demo
from sparseplan.device import custom, load_device, presets
from sparseplan.errors import InternalError, ProblemError, SparseplanError, near
from sparseplan.inspection import inspect_rows
from sparseplan.plan import Plan
from sparseplan.planfile import read_plan, write_plan
from sparseplan.problem import resolve_choices
from sparseplan.run import Optimizer, run
from sparseplan.steps import FRACTIONS, OPTIMIZERS
from sparseplan.tables import table
from sparseplan.tasks import TASKS, get_task
from sparseplan.value import squared_gradient_norm
from sparseplan.verify import verify
from sparseplan.version import __version__
from sparseplan.weights import pretrained, read_weights

Handler = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Errors in the tool's own manner: what is wrong, near matches by argparse, exit code 2."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_args(argv)
    handler: Handler = args.handler
    try:
        # one thread: matrices are small, and results do not depend on the number of cores
        with threadpool_limits(limits=1):
            code = handler(args)
        sys.stdout.flush()
        return code
    except SparseplanError as error:
        print(f"sparseplan: {error}", file=sys.stderr)
        return 2
    except InternalError as error:
        print(f"sparseplan: internal error: {error}; please report it with the command", file=sys.stderr)
        return 3
    except BrokenPipeError:  # the reader (head, less) left; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("sparseplan: interrupted; nothing was half written", file=sys.stderr)
        return 130


# -- arguments --------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sparseplan", description="Exact plans for fine-tuning networks in a microcontroller's memory."
    )
    parser.add_argument("--version", action="version", version=f"sparseplan {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, help_: str, handler: Handler) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.add_argument("--json", action="store_true", help="print one JSON value instead of text")
        sub.set_defaults(handler=handler)
        return sub

    command("networks", "List the networks of the zoo.", _networks)
    command("devices", "List the device presets.", _devices)

    sub = command("inspect", "Show what each op of a network costs.", _inspect)
    _network_argument(sub)
    sub.add_argument("--dtype", default="bf16", help="fp32, fp16 or bf16 (default %(default)s)")
    sub.add_argument("--batch", type=_positive, default=1, help="samples at once (default %(default)s)")

    sub = command("plan", "Find the best update set and memory map within a device's budgets.", _plan)
    _network_argument(sub)
    _plan_arguments(sub)

    sub = command("verify", "Check a plan file without the solver.", _verify)
    sub.add_argument("plan", help="plan file")

    sub = command("run", "Execute a plan in an arena of exactly its bytes.", _run)
    sub.add_argument("plan", help="plan file")
    sub.add_argument("--weights", help="npz of parameters (default: drawn from --seed)")
    sub.add_argument("--samples", type=_positive, default=1, help="runs of the schedule (default %(default)s)")
    sub.add_argument("--lr", type=float, default=0.01, help="learning rate (default %(default)s)")
    sub.add_argument("--seed", type=_seed, default=0)

    sub = command("check", "Fine-tune with a plan's update set and report the metrics before and after.", _check)
    sub.add_argument("plan", help="plan file")
    sub.add_argument("--task", default="depth", help=f"one of {', '.join(sorted(TASKS))} (default %(default)s)")
    sub.add_argument("--weights", help="npz of parameters to start from (default: the zoo's pretrained ones)")
    sub.add_argument("--seeds", type=_positive, default=3, help="number of seeds (default %(default)s)")
    sub.add_argument("--epochs", type=_positive, help="passes over the data (default: the task's)")
    sub.add_argument("--full", action="store_true", help="also train all parameters, for comparison")

    sub = command("demo", "Plan uPyD-Net for GAP9, run it in its bytes, adapt it to a new place.", _demo)
    sub.add_argument("-o", "--out", default="sparseplan-demo", help="folder for plan and figures (default %(default)s)")
    sub.add_argument("--seeds", type=_positive, default=3, help="training runs of each kind (default %(default)s)")

    for sub in (commands.choices["check"], commands.choices["demo"]):
        sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1,
                         help="training runs at a time (default: one a core)")  # fmt: skip

    sub = command("selftest", "Check the planner's theorems on a network of yours.", _selftest)
    _network_argument(sub)
    sub.add_argument("--seconds", type=_seconds, default=60.0, help="time to spend (default %(default)s)")
    sub.add_argument("--seed", type=_seed, default=0)
    return parser


def _network_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("network", metavar="NET", help="a name of the zoo (see `sparseplan networks`) or a spec file")


def _plan_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--device", help="a preset (see `sparseplan devices`) or a TOML file; without: --l1 and --l2 alone")
    add("--l1", help="budget of the scratchpad, such as 128KiB")
    add("--l2", help="budget of main memory, such as 1.2MB")
    add("--dtype", default="bf16", help="fp32, fp16 or bf16 (default %(default)s)")
    add("--batch", type=_positive, default=1, help="samples at once (default %(default)s)")
    add("--optimizer", default="sgd", help=f"{', '.join(OPTIMIZERS)} (default %(default)s)")
    add("--gradients", default="fused", help="fused or accumulate (default %(default)s)")
    add("--frozen", default="l2", help="where parameters live that are not updated: l2, l3 or flash")
    add("--concat", default="split", help="split: kernels read concats in parts; adjoin: as one (default %(default)s)")
    add("--alignment", type=_positive, help="of buffers, in bytes (default: the device's)")
    add("--loss", default="l1", help="l1, huber, mse, berhu or cross_entropy (default %(default)s)")
    add(
        "--value",
        default="elements",
        metavar="elements|gradient|FILE",
        help="worth of an update: elements updated, squared gradient norm over --task's data, or a CSV or JSON file",
    )
    add("--task", default="depth", help="data for --value gradient (default %(default)s)")
    add("--weights", help="npz of parameters for --value gradient (default: the zoo's pretrained ones)")
    for name, text in (
        ("may", "only these may be updated"),
        ("must", "these have to be"),
        ("never", "these are frozen"),
    ):
        add(f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{text}: a name pattern such as 'decoder0.*', or 'decoder0.*@1/4' (repeatable)")  # fmt: skip
    add("--fractions", default=",".join(map(str, FRACTIONS)), help="channel fractions allowed (default %(default)s)")
    add("--max-macs", type=_positive, help="cap on the MACs of one training step")
    add("--time-limit", type=_seconds, default=120.0, metavar="S", help="seconds (default %(default)s)")
    add("--seed", type=_seed, default=0, help="same inputs and seed, same plan (default %(default)s)")
    add("-o", "--out", metavar="FILE", help="write the plan as JSON")
    add("--figure", metavar="FILE", help="write a figure (png, svg, pdf)")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 2**40:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a whole number from 0 to 2147483647")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


# -- commands ----------------------------------------------------------------------------------------


def _print(args: argparse.Namespace, data: Any, text: str) -> None:
    print(json.dumps(data, indent=2, allow_nan=False) if args.json else text)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


def _progress_end() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _networks(args: argparse.Namespace) -> int:
    rows = []
    for name in sorted(zoo.NETWORKS):
        net = zoo.get(name)
        costs = inspect_rows(net)
        rows.append(
            {"network": name, "ops": len(net.ops), "parameters": sum(r["parameters"] for r in costs),
             "macs_forward": sum(r["macs_forward"] for r in costs),
             "input": [list(net.tensor[t].shape) for t in net.inputs]}
        )  # fmt: skip
    body = [[r["network"], r["ops"], r["parameters"], r["macs_forward"],
             " ".join("×".join(map(str, s)) for s in r["input"])] for r in rows]  # fmt: skip
    _print(args, rows, table(("network", "ops", "parameters", "MACs forward", "input"), body))
    return 0


def _devices(args: argparse.Namespace) -> int:
    rows, body = [], []
    for name in presets():
        device = load_device(name)
        levels = {v.name: v.bytes for v in device.levels}
        rows.append({"device": name, "title": device.title, "levels": levels,
                     "reserved": {v.name: v.reserved for v in device.levels},
                     "alignment": device.level("L2").alignment, "sources": list(device.sources),
                     "notes": device.notes})  # fmt: skip
        body.append([name, device.title, *(_size(levels, v) for v in ("L1", "L2", "L3", "flash"))])
    note = "Bytes; '?' is not known, '-' is not there. `sparseplan devices --json` adds sources and notes."
    _print(
        args, rows, table(("device", "title", "L1", "L2", "L3", "flash"), body, [False] * 2 + [True] * 4) + "\n" + note
    )
    return 0


def _size(levels: dict[str, int | None], name: str) -> str:
    if name not in levels:
        return "-"
    size = levels[name]
    return "?" if size is None else f"{size:,}"


def _inspect(args: argparse.Namespace) -> int:
    net = api.network(args.network)
    _print(args, inspect_rows(net, args.dtype, args.batch) if args.json else None,
           "" if args.json else report.inspect_text(net, args.dtype, args.batch))  # fmt: skip
    return 0


def _plan(args: argparse.Namespace) -> int:
    net = api.network(args.network)
    if args.device is None and args.l2 is None:
        raise ProblemError("device=None and l2=None: give --device (see `sparseplan devices`) or --l2, such as 600kB")
    for path in (args.out, args.figure):
        _writable(path)
    options = {name: getattr(args, name) for name in (
        "l1", "l2", "dtype", "batch", "optimizer", "gradients", "frozen", "concat", "alignment", "loss", "may", "must",
        "never", "max_macs",
    )}  # fmt: skip
    options["fractions"] = _fractions(args.fractions)
    options["values"] = _values(args, net)
    asked = api.problem(net, load_device(args.device) if args.device else custom(), **options)
    answer = api.plan(asked, time_limit=args.time_limit, seed=args.seed, progress=_progress)
    _progress_end()
    if args.out and answer.feasible:
        write_plan(answer, args.out)
    if args.figure and answer.feasible:
        report.save_figure(answer, args.figure)
    _print(args, report.summary(answer), report.describe(answer))
    return 0 if answer.feasible else 1


def _writable(path: str | None) -> None:
    """Fail before the work is done rather than after."""
    folder = os.path.dirname(os.path.abspath(path)) if path else None
    if folder is not None and not os.path.isdir(folder):
        raise ProblemError(f"output {path!r}: folder {folder!r} does not exist; make it first")


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(a) / float(b or 1) for a, _, b in (p.strip().partition("/") for p in text.split(",")))
    except (ValueError, ZeroDivisionError):
        raise ProblemError(f"fractions={text!r} must be numbers such as 1/8,0.25,1") from None


def _values(args: argparse.Namespace, net: Any) -> Any:
    if args.value == "elements":
        return None
    if args.value == "gradient":
        task = get_task(args.task)
        weights = read_weights(args.weights, net) if args.weights else pretrained(net)
        _progress("measuring gradients")
        choices, _ = resolve_choices(net, args.may, args.must, args.never, _fractions(args.fractions))
        x, target = task.train.x[:SAMPLES], task.train.target[:SAMPLES]
        return squared_gradient_norm(net, weights, x, target, choices, loss=task.loss, loss_attrs=task.loss_attrs)
    if not os.path.exists(args.value) and not args.value.endswith((".csv", ".json")):
        raise ProblemError(f"value={args.value!r} is no file{near(args.value, ['elements', 'gradient'])}")
    return args.value


def _read(args: argparse.Namespace) -> Plan:
    return read_plan(args.plan)


def _verify(args: argparse.Namespace) -> int:
    plan = _read(args)
    found = verify(plan.problem, plan)
    rows = [{"kind": v.kind, "where": v.where, "message": v.message} for v in found]
    text = "\n".join(f"{r['kind']}: {r['where']}: {r['message']}" for r in rows) or "verified: no violation"
    _print(args, {"accepted": not found, "violations": rows}, text)
    return 0 if not found else 1


def _run(args: argparse.Namespace) -> int:
    plan = _read(args)
    if found := verify(plan.problem, plan):
        print(f"sparseplan: the verifier rejects this plan: {found[0].where}: {found[0].message}", file=sys.stderr)
        return 2
    weights = read_weights(args.weights, plan.problem.network) if args.weights else None
    kind = plan.problem.options.optimizer
    result = run(plan, weights, seed=args.seed, samples=args.samples, optimizer=Optimizer(kind, lr=args.lr))
    rows: list[list[object]] = [
        [level, n, result.touched_bytes[level], result.written_bytes[level]]
        for level, n in result.claimed_bytes.items()
    ]
    same = "bit for bit" if result.bitwise_equal else f"to within {result.max_abs_gradient_difference:g}"
    lines = [
        f"executed {result.steps} steps in the planned bytes",
        table(("level", "claimed B", "touched up to B", "distinct B written"), rows, [False] + [True] * 3),
        f"gradients and parameters equal the unconstrained reference's {same}",
        "guard zones and all other buffers intact" if result.guard_intact else "\n".join(result.faults),
    ]
    _print(args, result.to_json(), "\n".join(lines))
    return 0 if result.guard_intact else 1


def _check(args: argparse.Namespace) -> int:
    plan = _read(args)
    net = plan.problem.network
    task = get_task(args.task)
    weights = read_weights(args.weights, net) if args.weights else pretrained(net)
    sets = {"planned": dict(plan.update)}
    if args.full:
        sets["full"] = dict.fromkeys(net.parameters, 1.0)
    result: CheckReport = check(
        net, weights, sets, task, seeds=args.seeds, epochs=args.epochs, jobs=args.jobs, progress=_progress
    )
    _progress_end()
    _print(args, result.to_json(), result.text())
    return 0


def _demo(args: argparse.Namespace) -> int:
    result = demo(args.out, seeds=args.seeds, jobs=args.jobs, say=None if args.json else print, progress=_progress)
    _progress_end()
    if args.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    return 0


def _selftest(args: argparse.Namespace) -> int:
    from sparseplan.testing import selftest  # hypothesis is an extra

    result = selftest(api.network(args.network), seed=args.seed, seconds=args.seconds, progress=_progress)
    _progress_end()
    rows = [{"theorem": r.theorem, "cases": r.cases, "outcome": r.outcome, "detail": r.detail} for r in result.rows]
    _print(args, {"passed": result.passed, "rows": rows}, result.text())
    return 0 if result.passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
