"""What commands share: output, progress, readers of arguments."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sparseplan import api
from sparseplan.builder import init_parameters
from sparseplan.cli.losses import planned_loss
from sparseplan.device import Device, custom, load_device
from sparseplan.errors import NetworkError, PlanError, ProblemError, near
from sparseplan.importers import Imported
from sparseplan.network import Network
from sparseplan.objective import Loss, parse_losses
from sparseplan.origin import Origin, weights_sha256
from sparseplan.plan import Plan
from sparseplan.problem import SAVINGS, Problem, resolve_choices, savings_lacking
from sparseplan.run.schedules import DROPS, LrSchedule
from sparseplan.run.settings import EarlyStopping, TrainSettings
from sparseplan.sources import folded, imported, plan_weights
from sparseplan.tasks import Task, get_task
from sparseplan.value import VALUES, get_value
from sparseplan.value.units import Unit, units_of
from sparseplan.verify import verify
from sparseplan.weights import pretrained, read_weights

Handler = Callable[[argparse.Namespace], int]
#: exit code of a plan that updates nothing
NOTHING = 3
#: measures that look at the data
_WITH_DATA = frozenset(VALUES) - {"count", "magnitude"}


def show(args: argparse.Namespace, data: Any, text: str) -> None:
    """Print one JSON value, or text."""
    print(json.dumps(data, indent=2, allow_nan=False) if args.json else text)


def solved(feasible: bool, updates: bool) -> int:
    """Exit code of a search: 0 with a plan that updates something, 3 with one that updates nothing, 1 without."""
    return (0 if updates else NOTHING) if feasible else 1


def progress(text: str) -> None:
    """A line that overwrites itself, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)


def progress_end() -> None:
    """Clear the line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def writable(*paths: str | None) -> None:
    """Fail before the work is done rather than after."""
    for path in paths:
        folder = os.path.dirname(os.path.abspath(path)) if path else None
        if folder is not None and not os.path.isdir(folder):
            raise ProblemError(f"output {path!r}: folder {folder!r} does not exist; make it first")


def fractions_of(text: str) -> tuple[float, ...]:
    """``1/8,0.25,1`` as numbers."""
    try:
        return tuple(float(a) / float(b or 1) for a, _, b in (p.strip().partition("/") for p in text.split(",")))
    except (ValueError, ZeroDivisionError):
        raise ProblemError(f"fractions={text!r} must be numbers such as 1/8,0.25,1") from None


def origin_of(args: argparse.Namespace) -> Imported:
    """What ``NET`` and the options beside it name; what the importer has to say goes to stderr."""
    known: Imported | None = getattr(args, "_origin", None)
    if known is None:
        progress(f"reading {args.network}")
        known = imported(args.network, shapes=dict(map(_shape, args.shape)), fixed=dict(map(_fixed, args.fix)),
                         outputs=args.output or None)  # fmt: skip
        known = folded(known) if args.fold else known
        progress_end()
        for note in _few(known.notes):
            print(f"note: {note}", file=sys.stderr)
        args._origin = known
    return known


def _few(notes: Sequence[str], most: int = 8) -> list[str]:
    """Notes for a reader: of many, the first and, since they sum up, the last."""
    if len(notes) <= most:
        return list(notes)
    return [*notes[: most - 3], f"{len(notes) - most + 1} more (`sparseplan import --json` has all)", *notes[-2:]]


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, extents = text.rpartition("=")
    parts = [p.strip() for p in extents.replace("x", ",").split(",")]
    if not equals or not all(p.isascii() and p.isdigit() and 0 < int(p[:12]) < 2**31 for p in parts):
        raise NetworkError(f"shape={text!r} must be INPUT=N,C,H,W with whole numbers above 0, such as image=1,3,48,48")
    return name, tuple(map(int, parts))


def _fixed(text: str) -> tuple[str, float | int]:
    name, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value):
        raise NetworkError(f"fix={text!r} must be INPUT=NUMBER, such as sr=16000")
    return name, int(value) if value.is_integer() else value


def verified(plan: Plan, path: str) -> Plan:
    """A plan that the verifier accepts; raises PlanError with the first of what it finds."""
    if found := verify(plan.problem, plan):
        raise PlanError(f"plan {path!r}: the verifier rejects it: {found[0].where}: {found[0].message}")
    return plan


def weights_of(args: argparse.Namespace, network: Network) -> Any:
    """The parameters that ``--weights`` names, or the imported ones, or the zoo's pretrained ones."""
    if args.weights:
        return read_weights(args.weights, network)
    origin: Imported | None = getattr(args, "_origin", None)
    if origin is not None and origin.weights and origin.network is network:
        return dict(origin.weights)
    return pretrained(network)


def plan_weights_of(args: argparse.Namespace, plan: Plan, drawn: bool = False) -> tuple[Any, str]:
    """The weights that a plan file names, or ``--weights``, and where they come from.

    ``drawn``: a plan that names none is executed on drawn ones.
    """
    if drawn and args.weights is None and plan.problem.origin is None:
        net = plan.problem.network
        return init_parameters(net, args.seed), f"drawn from seed {args.seed}, as the plan names none"
    return plan_weights(plan, args.weights, getattr(args, "seed", 0))


def task_of(args: argparse.Namespace) -> Task:
    """The task that ``--task`` names, read once."""
    known: Task | None = getattr(args, "_task", None)
    if known is None:
        name = args.task or "depth"
        progress(f"loading task {name}")
        known = args._task = get_task(name)
    return known


def choices_of(args: argparse.Namespace, network: Network) -> dict[str, tuple[float, ...]]:
    """What may be updated; measures and units leave alone what the origin does not train."""
    origin: Imported | None = getattr(args, "_origin", None)
    fixed = origin.fixed if origin is not None and origin.network is network else ()
    judged = tuple(x.output for x in losses_of(args, network)) or None
    return resolve_choices(network, args.may, args.must, args.never, fractions_of(args.fractions), fixed, judged)[0]


def measured(args: argparse.Namespace, network: Network, name: str) -> Any:
    """Values by a measure of the library, over ``--task``'s data where it looks at any."""
    choices = choices_of(args, network)
    if name == "count":
        return get_value(name)(network, {}, None, choices)
    weights = weights_of(args, network)
    if name in _WITH_DATA:
        planned_loss(args.loss, task_of(args))
    data = task_of(args).samples(args.samples, args.seed) if name in _WITH_DATA else None
    progress(f"measuring {name}")
    return get_value(name)(network, weights, data, choices)


def values_of(args: argparse.Namespace, network: Network) -> Any:
    """What ``--value`` names: a measure, or a file."""
    name = "count" if args.value == "elements" else args.value
    if name in VALUES:
        return measured(args, network, name)
    if not os.path.exists(args.value) and not args.value.endswith((".csv", ".json")):
        raise ProblemError(f"value={args.value!r} is no file{near(args.value, ['elements', *VALUES])}")
    return args.value


def named_units(network: Network, text: str, choices: Any = None) -> tuple[Unit, ...]:
    """Units by ``parameter``, ``layer``, ``block``, or ``NAME=PATTERN,PATTERN;NAME=…``."""
    if "=" not in text:
        return units_of(network, text, choices)
    by: dict[str, tuple[str, ...]] = {}
    for part in text.split(";"):
        name, equals, patterns = part.partition("=")
        name = name.strip()
        if not equals or not name or name in by:
            raise ProblemError(f"units={text!r}: {part!r} must be NAME=PATTERN,PATTERN with a name of its own")
        by[name] = tuple(p.strip() for p in patterns.split(","))
    return units_of(network, by, choices)


def training_settings(args: argparse.Namespace, start: TrainSettings) -> TrainSettings:
    """A task's settings with what the arguments change of them."""
    changes: dict[str, Any] = {}
    for field, name in (("epochs", "epochs"), ("optimizer", "train_optimizer"), ("lr", "lr"),
                        ("batch", "train_batch"), ("accumulate", "accumulate")):  # fmt: skip
        if getattr(args, name) is not None:
            changes[field] = getattr(args, name)
    if args.schedule is not None or args.warmup:
        drops = start.lr_drop or DROPS
        kind = args.schedule or ("step" if start.lr_drop else "constant")
        changes["schedule"], changes["lr_drop"] = LrSchedule(kind, args.warmup, drops), ()
    if args.early_stopping is not None:
        changes["stopping"] = EarlyStopping(args.early_stopping)
    return replace(start, **changes)


def losses_of(args: argparse.Namespace, network: Network) -> tuple[Loss, ...]:
    """The losses that ``--loss`` gives by outputs or weights; none where it is the one loss on the first output."""
    if not getattr(args, "loss", None):
        return ()
    origin: Imported | None = getattr(args, "_origin", None)
    return parse_losses(args.loss, {}, network, origin.outputs if origin is not None else {})[1]


def savings_of(args: argparse.Namespace, device: Device) -> tuple[str, ...]:
    """What may be done to hold less: names with commas between, or all that the device can do."""
    if args.savings.strip() != "all":
        return tuple(part.strip() for part in args.savings.split(",") if part.strip())
    lacking = savings_lacking(device, args.batch, args.concat)
    if lacking:
        told = "; ".join(f"{name} needs {why}" for name, why in lacking.items())
        print(f"note: --savings all is without {' and '.join(lacking)}: {told}", file=sys.stderr)
    return tuple(name for name in SAVINGS if name not in lacking)


def problem_of(args: argparse.Namespace, need_budget: bool = True) -> Problem:
    """The problem that the arguments of ``plan`` state."""
    origin = origin_of(args)
    network = origin.network
    if need_budget and args.device is None and args.l2 is None:
        raise ProblemError("no budget is given: --device (see `sparseplan devices`) or --l2, such as 600kB")
    options = {name: getattr(args, name) for name in (
        "l1", "l2", "dtype", "batch", "optimizer", "gradients", "frozen", "concat", "alignment", "may", "must",
        "never", "max_macs", "int8_price", "max_seconds", "max_joules",
    )}  # fmt: skip
    task = task_of(args) if args.task is not None or args.value in _WITH_DATA else None
    options["loss"], options["loss_attrs"] = planned_loss(args.loss, task)
    options["fractions"] = fractions_of(args.fractions)
    device = load_device(args.device) if args.device else custom()
    options["savings"] = savings_of(args, device)
    if args.together != "parameter":
        options["together"] = [unit.parameters for unit in named_units(network, args.together)]
    options["values"] = values_of(args, network)
    made = api.problem(origin, device, **options)
    if args.weights:
        given = weights_of(args, network)
        made = replace(made, origin=Origin(args.weights, weights_sha256(given)))
    return made


def written_weights(args: argparse.Namespace, problem: Problem) -> Any:
    """Weights that have to be written beside a plan, as nothing that a plan file may name leads to them again."""
    origin = problem.origin
    needed = origin is not None and not origin.is_file and (origin.is_module or not origin.source)
    return weights_of(args, problem.network) if needed else None
