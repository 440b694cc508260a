"""Arguments of every command."""

from __future__ import annotations

import argparse
import os
from typing import Any

from sparseplan import api, sweep
from sparseplan.cli import comparing, moving, planning, show, timing, training
from sparseplan.cli.common import Handler
from sparseplan.problem import INT8_PRICE, SAVINGS
from sparseplan.run.schedules import SCHEDULES
from sparseplan.steps import FRACTIONS, OPTIMIZERS
from sparseplan.tasks import TASKS
from sparseplan.value import VALUES
from sparseplan.version import __version__

#: what every command's help ends with
EXIT_CODES = (
    "Exit codes: 0 done; 1 no plan fits, or a check failed; 2 bad input; 3 solved, but the plan updates nothing (the "
    "report says why); 4 a bug in sparseplan; 130 interrupted."
)


class _Parser(argparse.ArgumentParser):
    """Errors in the tool's own manner: what is wrong, near matches by argparse, exit code 2."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = _Parser(prog="sparseplan", description="Exact plans for fine-tuning networks in a microcontroller's memory.",
                  epilog=EXIT_CODES)  # fmt: skip
    top.add_argument("--version", action="version", version=f"sparseplan {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, help_: str, handler: Handler) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_, epilog=EXIT_CODES)
        sub.add_argument("--json", action="store_true", help="print one JSON value instead of text")
        sub.set_defaults(handler=handler)
        return sub

    command("networks", "List the networks of the zoo.", show.networks)
    command("devices", "List the device presets.", show.devices)

    sub = command("inspect", "Show what each op of a network costs.", show.inspect)
    _network_argument(sub)
    sub.add_argument("--dtype", default="bf16", help="fp32, fp16 or bf16 (default %(default)s)")
    sub.add_argument("--batch", type=_positive, default=1, help="samples at once (default %(default)s)")

    sub = command("import", "Read a network from an ONNX file or a PyTorch module; write it as a spec.", moving.import_)
    _network_argument(sub)
    sub.add_argument("-o", "--out", metavar="FILE", help="write the network's spec as JSON")
    sub.add_argument("--weights-out", metavar="FILE", help="write its parameters as npz")

    sub = command("export", "Write a plan as C99 sources, as a PyTorch recipe, or as JSON.", moving.export)
    sub.add_argument("plan", help="plan file")
    sub.add_argument("--to", required=True, choices=moving.TARGETS, help="what to write")
    sub.add_argument("-o", "--out", metavar="PATH", required=True, help="a folder for c, a file for torch and json")
    sub.add_argument("--name", default="sparseplan", help="prefix of C names and files (default %(default)s)")
    _weights_argument(sub, "for c: ")
    sub.add_argument("--network", metavar="NET", help="for torch: what the plan's network was imported from, if axes "
                     "of its parameters were moved (the import notes it)")  # fmt: skip
    sub.set_defaults(shape=[], fix=[], output=[], fold=False)
    sub.add_argument("--lr", type=float, default=0.01, help="learning rate in c (default %(default)s)")
    sub.add_argument("--seed", type=_seed, default=0)

    sub = command("schema", "Print the JSON schema of plan files or network specs.", moving.schema)
    sub.add_argument("of", choices=("plan", "network"))

    sub = command("plan", "Find the best update set and memory map within a device's budgets.", planning.plan)
    _network_argument(sub)
    _plan_arguments(sub, api.TIME_LIMIT)
    sub.add_argument("-o", "--out", metavar="FILE", help="write the plan as JSON")
    sub.add_argument("--figure", metavar="FILE", help="write a figure (png, svg, pdf)")
    sub.add_argument("--compare", action="append", default=[], metavar="PLAN",
                     help="put this plan file beside the new plan (repeatable)")  # fmt: skip
    sub.add_argument("--tiles", action="store_true", help="also show how each pass is tiled into L1")
    sub.add_argument("--verbose", action="store_true", help="name every rate that the device lacks")
    sub.add_argument("--train-samples", type=_positive, metavar="N", help="also tell what training on N samples takes")
    sub.add_argument("--epochs", type=_positive, default=1, help="passes over them (default %(default)s)")
    sub.add_argument("--accumulate", type=_positive, default=1, metavar="N",
                     help="runs that share an update, with --gradients accumulate (default %(default)s)")  # fmt: skip
    sub.add_argument("--measure", metavar="CSV", help="write what to measure for `calibrate`, cycles left empty")

    sub = command("calibrate", "Fit a device's rates to measurements of your own, and write a TOML device.", timing.fit)
    sub.add_argument("measurements", metavar="CSV", help="columns op, pass, dtype, macs, cycles, …; see docs/time.md")
    sub.add_argument("--device", required=True, help="a preset or a TOML file, whose rows are replaced or added to")
    sub.add_argument("--clock", metavar="HZ", help="clock of the measurements, such as 370MHz (default: the device's)")
    sub.add_argument("--name", help="name of the device that is written (default: the same)")
    sub.add_argument("-o", "--out", metavar="FILE", help="write the device as TOML (default: print it)")

    sub = command("pareto", "Find every plan that no other beats in both value and bytes.", planning.pareto)
    _network_argument(sub)
    _plan_arguments(sub, sweep.TIME_LIMIT)
    _pareto_arguments(sub)

    sub = command("value", "Measure what updates are worth, and write a value file.", training.value)
    _network_argument(sub)
    _value_arguments(sub)

    sub = command("compare", "Put plan files side by side: value, bytes, MACs, time, savings.", comparing.compare)
    sub.add_argument("plans", nargs="+", metavar="PLAN", help="plan files")

    sub = command("verify", "Check a plan file without the solver.", planning.verify_plan)
    sub.add_argument("plan", help="plan file")

    sub = command("run", "Execute a plan in an arena of exactly its bytes.", planning.run_plan)
    sub.add_argument("plan", help="plan file")
    _weights_argument(sub, also=" (the default where the plan names none)")
    sub.add_argument("--samples", type=_positive, default=1, help="runs of the schedule (default %(default)s)")
    sub.add_argument("--lr", type=float, default=0.01, help="learning rate (default %(default)s)")
    sub.add_argument("--seed", type=_seed, default=0)

    sub = command("check", "Fine-tune with a plan's update set; report metrics before and after.", training.check)
    sub.add_argument("plan", help="plan file")
    _task_argument(sub)
    _weights_argument(sub)
    sub.add_argument("--seed", type=_seed, default=0, help="of --weights random (default %(default)s)")
    sub.add_argument("--loss", help="to train with, where the plan's and the task's differ (an error without)")
    sub.add_argument("--full", action="store_true", help="also train every parameter that can be updated")
    sub.add_argument("--arena", action="store_true", help="train inside the plan's arena, as the plan says, to the end")
    _training_arguments(sub)

    sub = command("demo", "Plan uPyD-Net for GAP9, run it in its bytes, adapt it to a new place.", training.demo_)
    sub.add_argument("-o", "--out", default="sparseplan-demo", help="folder for plan and figures (default %(default)s)")
    sub.add_argument("--seeds", type=_positive, default=3, help="training runs of each kind (default %(default)s)")
    sub.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1,
                     help="training runs at a time (default: one a core)")  # fmt: skip

    sub = command("selftest", "Check the planner's theorems on a network of yours.", planning.self_test)
    _network_argument(sub)
    sub.add_argument("--time-limit", "--seconds", dest="seconds", type=_seconds, default=60.0, metavar="S",
                     help="seconds for all theorems together (default %(default)s)")  # fmt: skip
    sub.add_argument("--seed", type=_seed, default=0)
    return top


def _network_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("network", metavar="NET",
                     help="a name of the zoo (see `sparseplan networks`), a spec (.json), an ONNX file (.onnx), or "
                          "package.module:function that returns a PyTorch module and an example input")  # fmt: skip
    sub.add_argument("--shape", action="append", default=[], metavar="INPUT=N,C,H,W",
                     help="shape of an input that an ONNX file leaves open (repeatable)")  # fmt: skip
    sub.add_argument("--fix", action="append", default=[], metavar="INPUT=NUMBER",
                     help="make an input of an ONNX file a constant, such as sr=16000 (repeatable)")  # fmt: skip
    sub.add_argument("--output", action="append", default=[], metavar="TENSOR",
                     help="the tensor that the loss is on, or what the file or the module calls it: a name, a key "
                          "or a position (default: the first output; repeatable: all others are dropped)")  # fmt: skip
    sub.add_argument("--fold", action="store_true", help="fold batch-norms into the layers before them")


def _plan_arguments(sub: argparse.ArgumentParser, limit: float) -> None:
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
    _loss_argument(sub)
    add(
        "--value",
        default="elements",
        metavar="elements|" + "|".join(VALUES) + "|FILE",
        help="worth of an update: a measure (those with gradients look at --task's data), or a CSV or JSON file",
    )
    add("--task", help=f"data: one of {', '.join(sorted(TASKS))} (default depth), or a path to npz or folder")
    add("--weights", help="npz of parameters for --value and training (default: the zoo's pretrained ones)")
    add("--samples", type=_positive, default=64, help="training samples that --value looks at (default %(default)s)")
    add("--together", default="parameter", metavar="parameter|layer|block|NAME=PATTERN,…;NAME=…",
        help="what is updated together or not at all (default %(default)s)")  # fmt: skip
    _choice_arguments(sub)
    add("--max-macs", type=_positive, help="cap on the MACs of one training step")
    add("--max-seconds", type=_seconds, metavar="S", help="cap on the seconds of a training step")
    add(
        "--max-joules",
        type=_seconds,
        metavar="J",
        help="cap on the joules of a training step",
    )
    add("--savings", default="", metavar=",".join(SAVINGS),
        help="what may be done to hold less, or all that the device can do: run forward ops again; page tensors to L3 "
             "and back; stream frozen parameters from flash; save inputs in 8 bits; run groups of ops in stripes; "
             "reorder steps")  # fmt: skip
    add("--int8-price", type=_share, default=INT8_PRICE, metavar="SHARE",
        help="share of its value that an update from an input in 8 bits loses (default %(default)s)")  # fmt: skip
    add("--time-limit", type=_limit, default=limit, metavar="S",
        help="seconds after which the best that was found so far is told, with its gap; none: until all is proven "
             "(default %(default)s)")  # fmt: skip
    add("--seed", type=_seed, default=0, help="same inputs and seed, same plan (default %(default)s)")


def _pareto_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--axis", default="l2", help="l2, l1, macs or time (default %(default)s)")
    add("--points", type=_positive, metavar="N", help="thin the front to about N points")
    add("--budgets", metavar="A,B,…", help="only the best plan at each of these budgets, such as 500kB,1MB")
    add("--csv", metavar="FILE", help="write the points as CSV")
    add("--figure", metavar="FILE", help="write a figure (png, svg, pdf)")
    add("--plans", metavar="DIR", help="write every point's plan there")
    add("--train", action="store_true",
        help="train each point and the usual update sets on --task (naming --task implies it)")  # fmt: skip
    add("--no-train", action="store_true", help="--task serves --value alone")
    add("--train-csv", metavar="FILE", help="write every training run as CSV")
    add("--blocks", metavar="NAME=PATTERN,…;NAME=…", help="blocks by hand to train beside (default: by name)")
    add(
        "--random",
        type=_count,
        default=2,
        metavar="N",
        help="random sets at each of 3 budgets (default %(default)s)",
    )
    _training_arguments(sub)


def _loss_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--loss", action="append", metavar="[OUTPUT=][WEIGHT*]KIND",
        help="l1, huber, mse, berhu or cross_entropy, on the first output (default: that of --task where its data are "
             "looked at, else l1); or on several, repeated: --loss logits=cross_entropy --loss box=0.5*l1")  # fmt: skip


def _value_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    _loss_argument(sub)
    add("--by", default="contribution", metavar="contribution|" + "|".join(VALUES),
        help="how to measure (default %(default)s: train each unit alone)")  # fmt: skip
    _task_argument(sub)
    add("--weights", help="npz of parameters (default: the zoo's pretrained ones)")
    add("--samples", type=_positive, default=64, help="training samples for gradients (default %(default)s)")
    add("--seed", type=_seed, default=0, help="of drawing samples (default %(default)s)")
    add("--units", default="layer", metavar="parameter|layer|block|NAME=PATTERN,…;NAME=…",
        help="what is trained alone (default %(default)s)")  # fmt: skip
    add("--base", action="append", default=[], metavar="PATTERN",
        help="update these in every run, and measure gains beyond them (repeatable; default: nothing)")  # fmt: skip
    add("--pairs", action="store_true", help="also train pairs of units, and fit what they bring together")
    add("--additive", action="store_true", help="fit the plain sum instead of gains that saturate")
    add("--time-limit", type=_limit, default=None, metavar="S",
        help="seconds of training: all units together first, then each alone (default: all)")  # fmt: skip
    add("--tied", action="store_true", help="units are updated together in plans, as they were measured")
    _choice_arguments(sub)
    add("-o", "--out", metavar="FILE", required=True, help="write the value file")
    _training_arguments(sub, seeds=1)


def _task_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--task", default="depth", help=f"one of {', '.join(sorted(TASKS))}, or a path to an npz or a "
                     "folder, perhaps with ?share=10&labels=tof-bilinear (default %(default)s)")  # fmt: skip


def _weights_argument(sub: argparse.ArgumentParser, what: str = "", also: str = "") -> None:
    sub.add_argument("--weights", metavar="FILE|random",
                     help=f"{what}an npz of parameters, or what the network was imported from (default: what the plan "
                     f"names); random draws them from --seed{also}")  # fmt: skip


def _training_arguments(sub: argparse.ArgumentParser, seeds: int = 3) -> None:
    add = sub.add_argument
    add("--seeds", type=_positive, default=seeds, help="training runs of each set (default %(default)s)")
    add("--epochs", type=_positive, help="passes over the data (default: the task's)")
    add(
        "--train-optimizer",
        metavar="KIND",
        help=f"{', '.join(OPTIMIZERS)} (default: the task's, or the arena's)",
    )
    add("--lr", type=float, help="learning rate (default: the task's)")
    add("--train-batch", type=_positive, metavar="N", help="samples a run (default: the task's)")
    add("--schedule", choices=SCHEDULES, help="of the learning rate (default: the task's)")
    add("--warmup", type=float, default=0.0, metavar="SHARE", help="share of the updates through which the rate rises")
    add("--accumulate", type=_positive, metavar="N", help="runs whose gradients make one update")
    add(
        "--early-stopping",
        type=_positive,
        metavar="EPOCHS",
        help="end after so many epochs without a better one",
    )
    add("--jobs", type=_positive, default=os.cpu_count() or 1, help="runs at a time (default: one a core)")
    add("--store", metavar="DIR", help="keep every finished run there; a command that was stopped goes on")


def _choice_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    for name, text in (
        ("may", "only these may be updated"),
        ("must", "these have to be"),
        ("never", "these are frozen"),
    ):
        add(f"--{name}", action="append", default=[], metavar="PATTERN",
            help=f"{text}: a name pattern such as 'decoder0.*', or 'decoder0.*@1/4' (repeatable)")  # fmt: skip
    add("--fractions", default=",".join(map(str, FRACTIONS)), help="channel fractions allowed (default %(default)s)")


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


def _limit(text: str) -> float | None:
    return None if text == "none" else _seconds(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text[:20]) < 2**20:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 0")
