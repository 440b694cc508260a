"""Pretrain uPyD-Net on the source domain with dense labels: the weights that the package ships.

Training is cut into rounds. A round is one call of the project's trainer with a fresh optimizer
and its own seed and learning rate (half a cosine over the rounds), so that a run that was
stopped, at whatever moment, goes on from its last finished round and ends with the same bytes
as one that was not (on the same machine: the last bits of sums are NumPy's). With the defaults,
on one core, it draws for a minute and trains for about half an hour:

    OMP_NUM_THREADS=1 python scripts/pretrain_upydnet.py
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
from sparseplan.tasks.depth import DepthTask, depth_task
from sparseplan.tasks.domains import SOURCE, TARGET
from sparseplan.weights import Weights, read_weights
from sparseplan.zoo import upydnet

ROOT = Path(__file__).resolve().parent.parent


def start(seed: int) -> Weights:
    """He-scaled weights, and a last bias so high that the final ReLU begins open everywhere."""
    drawn = init_parameters(upydnet(), seed)
    # init_parameters draws uniformly within 1/sqrt(fan-in), a variance of 1/(3 fan-in); LeakyReLU(1/8) wants this
    gain = math.sqrt(3 * 2 / (1 + 0.125**2))
    parameters = {name: a * np.float32(gain if name.endswith("weight") else 0) for name, a in drawn.items()}
    parameters["decoder2.conv2.weight"] *= np.float32(0.1)
    parameters["decoder2.conv2.bias"][:] = 1.5
    return parameters


def report(task: DepthTask, parameters: Weights, label: str) -> None:
    """Print the headline figures on the test split, beside the best constant's."""
    ours = task.metrics(predict(upydnet(), parameters, task.test.x), task.test)
    constant = task.baselines()["constant"]
    for name, row in ((label, ours), ("  best constant there", constant)):
        print(f"{name:32s} abs_rel {row['abs_rel']:.3f}  rmse {row['rmse']:.3f} m  d1 {row['d1']:.3f}")


def pretrain(args: argparse.Namespace) -> None:
    """Draw, train round by round, write the weights."""
    network = upydnet()
    asked = {k: v for k, v in sorted(vars(args).items()) if k not in ("out", "work")}
    args.work.mkdir(parents=True, exist_ok=True)
    note = args.work / "settings.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise DataError(f"{args.work} holds another run ({note.read_text()}); remove it or name another --work")
    note.write_text(json.dumps(asked))
    done = max((int(p.stem[-3:]) for p in args.work.glob("round-[0-9][0-9][0-9].npz")), default=0)
    parameters = read_weights(args.work / f"round-{done:03d}.npz", network) if done else start(args.seed)

    began = time.monotonic()

    def drawing(n: int, total: int) -> None:
        if n % 500 == 0:
            print(f"drew {n} of {total} pictures, {time.monotonic() - began:.0f} s", flush=True)

    task = depth_task(args.seed, args.pictures, 1, 256, SOURCE, "dense", progress=drawing)
    everything = UpdateSet.all(network).fractions
    for turn in range(done, args.rounds):
        lr = args.lr * max(0.5 * (1 + math.cos(math.pi * turn / args.rounds)), 0.02)
        settings = TrainSettings(
            loss="berhu", optimizer="adam", lr=lr, epochs=args.epochs, batch=args.batch, seed=args.seed * 1000 + turn
        )
        began = time.monotonic()
        result = train(network, parameters, everything, task.train.x, task.train.target, settings, task.augment)
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
    report(task, parameters, "source, test")
    report(depth_task(args.seed, 512, 1, 256, TARGET, "dense"), parameters, "target, before adapting")


def main() -> int:
    """Parse, run, and print errors in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2, help="passes over the pictures in a round")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3, help="Adam's, in the first round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "pretraining", help="folder of finished rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "sparseplan" / "zoo" / "weights" / "upydnet_rooms.npz")
    try:
        pretrain(parser.parse_args())
    except (SparseplanError, OSError) as error:
        print(f"pretrain_upydnet: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
