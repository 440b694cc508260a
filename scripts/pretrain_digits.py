"""Pretrain the small MobileNetV2 on clean digits: the weights that the package ships.

Training is cut into rounds. A round draws the source's images anew (other turns, sizes, places, noise)
and is one call of the project's trainer with a fresh optimizer and its own seed and learning rate
(half a cosine over the rounds), so that a run that was stopped, at whatever moment, goes on from its
last finished round and ends with the same bytes as one that was not (on the same machine: the last
bits of sums are NumPy's). It takes about two minutes on one core:

    OMP_NUM_THREADS=1 python scripts/pretrain_digits.py
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

from sparseplan.atomic import write_npz
from sparseplan.builder import init_parameters
from sparseplan.errors import DataError, SparseplanError
from sparseplan.run.trainer import TrainSettings, predict, train
from sparseplan.steps import UpdateSet
from sparseplan.tasks.classify import ClassificationTask, class_metrics
from sparseplan.tasks.digits import SOURCE, digits_task, draw, pool
from sparseplan.weights import Weights, read_weights
from sparseplan.zoo.mobilenetv2 import mobilenetv2_digits

ROOT = Path(__file__).resolve().parent.parent
#: images that are never trained on, to say what was reached
HELD_OUT = 97


def start(seed: int) -> Weights:
    """He-scaled weights, with the branches of residual adds made small so that they begin as the identity."""
    network = mobilenetv2_digits()
    drawn = init_parameters(network, seed)
    # init_parameters draws uniformly within 1/sqrt(fan-in), a variance of 1/(3 fan-in): ReLU wants six times that
    parameters = {name: a * np.float32(math.sqrt(6) if name.endswith("weight") else 0) for name, a in drawn.items()}
    for op in network.ops:
        if op.kind == "add":
            parameters[f"{op.name.removesuffix('.add')}.project.conv.weight"] *= np.float32(0.2)
    parameters["classifier.weight"] *= np.float32(0.1)
    return parameters


def report(task: ClassificationTask, parameters: Weights, label: str) -> None:
    """Print the figures on the test split, beside the baselines'."""
    ours = task.metrics(predict(mobilenetv2_digits(), parameters, task.test.x), task.test)
    for name, row in {label: ours, **{f"  {k} there": v for k, v in task.baselines().items()}}.items():
        print(f"{name:34s} accuracy {row['accuracy']:.3f}  cross-entropy {row['cross_entropy']:.3f}")


def pretrain(args: argparse.Namespace) -> None:
    """Train round by round, write the weights."""
    network = mobilenetv2_digits()
    asked = {k: v for k, v in sorted(vars(args).items()) if k not in ("out", "work")}
    args.work.mkdir(parents=True, exist_ok=True)
    note = args.work / "settings.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise DataError(f"{args.work} holds another run ({note.read_text()}); remove it or name another --work")
    note.write_text(json.dumps(asked))
    done = max((int(p.stem[-3:]) for p in args.work.glob("round-[0-9][0-9][0-9].npz")), default=0)
    parameters = read_weights(args.work / f"round-{done:03d}.npz", network) if done else start(args.seed)
    images, classes = pool(pretraining=True)
    kept = slice(len(images) - HELD_OUT, None)
    seen = slice(0, len(images) - HELD_OUT)
    everything = UpdateSet.all(network).fractions
    for turn in range(done, args.rounds):
        began = time.monotonic()
        lr = args.lr * max(0.5 * (1 + math.cos(math.pi * turn / args.rounds)), 0.02)
        settings = TrainSettings(
            loss="cross_entropy", optimizer="adam", lr=lr, epochs=1, batch=args.batch, seed=args.seed * 1000 + turn
        )
        pictures = [draw(images[seen], SOURCE, np.random.default_rng([args.seed, turn, i])) for i in range(args.draws)]
        x, target = np.concatenate(pictures), np.tile(classes[seen], args.draws)[:, None]
        result = train(network, parameters, everything, x, target, settings)
        parameters = {name: np.asarray(a, np.float32) for name, a in result.parameters.items()}
        write_npz(args.work / f"round-{turn + 1:03d}.npz", parameters)
        spent = time.monotonic() - began
        print(
            f"round {turn + 1} of {args.rounds}: lr {lr:.2e}, loss {result.losses[-1]:.4f}, {spent:.0f} s,"
            f" {spent * (args.rounds - turn - 1) / 60:.0f} min to go",
            flush=True,
        )
    write_npz(args.out, parameters)
    print(f"wrote {args.out}, {args.out.stat().st_size} bytes")
    clean = draw(images[kept], SOURCE, np.random.default_rng(args.seed))
    found = class_metrics(predict(network, parameters, clean), classes[kept])
    print(f"source, {HELD_OUT} images held out: accuracy {found['accuracy']:.3f}")
    report(digits_task(), parameters, "target, before adapting")


def main() -> int:
    """Parse, run, and print errors in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--draws", type=int, default=5, help="pictures of each image in a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3, help="Adam's, in the first round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "pretraining-digits", help="finished rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "sparseplan" / "zoo" / "weights" / "mobilenetv2_digits.npz")
    try:
        pretrain(parser.parse_args())
    except (SparseplanError, OSError) as error:
        print(f"pretrain_digits: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
