"""Weights of PyTorch modules travel with a plan file, though its code is never run for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparseplan.cli import main
from sparseplan.planfile import read_plan
from sparseplan.sources import plan_weights

torch = pytest.importorskip("torch.nn")

MODULE = """
import torch
from torch import nn

made = []


def make():
    made.append(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 64, 3)))
    return made[-1], torch.zeros(1, 1, 8, 8)
"""


def test_the_module_s_own_weights_are_run_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the module draws others every time that it is made."""
    import sys

    monkeypatch.chdir(tmp_path)
    Path("drawn_net.py").write_text(MODULE)
    try:
        assert main(["plan", "drawn_net:make", "--l2", "1MB", "-o", "p.json"]) == 0
        made = sys.modules["drawn_net"].made
        assert "its network's weights as p.weights.npz" in capsys.readouterr().out
        found, _ = plan_weights(read_plan("p.json"))
        by_size = {a.size: a for a in found.values()}
        for parameter in made[0].parameters():
            np.testing.assert_array_equal(by_size[parameter.numel()].ravel(), parameter.detach().numpy().ravel())
        assert main(["run", "p.json"]) == 0
        assert main(["export", "p.json", "--to", "c", "-o", "c"]) == 0
        assert "parameters: p.weights.npz" in capsys.readouterr().out
        assert len(made) == 1
        Path("p.weights.npz").unlink()
        assert main(["export", "p.json", "--to", "c", "-o", "d"]) == 2
        assert "(taken from drawn_net:make) are not there" in capsys.readouterr().err
        assert main(["export", "p.json", "--to", "c", "-o", "d", "--weights", "drawn_net:make"]) == 0
    finally:
        sys.modules.pop("drawn_net", None)
