"""PyTorch is imported by those calls alone that are given a module."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch was asked for")
sys.meta_path.insert(0, Absent())
import sparseplan, sparseplan.importers, sparseplan.importers.exported
import sparseplan.exporters, sparseplan.exporters.pytorch
assert "torch" not in sys.modules
from sparseplan.errors import MissingExtraError
from sparseplan import api, importers, zoo
from sparseplan.exporters import pytorch
plan = api.plan(zoo.get("resnet8"), may=["classifier.*"])
{call}
"""


def _run(call: str) -> str:
    done = subprocess.run([sys.executable, "-c", CODE.replace("{call}", call)], capture_output=True, text=True)
    return done.stdout + done.stderr[-600:]


def test_files_are_written_without_it(tmp_path: object) -> None:
    path = f"{tmp_path}/plan_torch.py"
    call = f"pytorch.export(plan, {path!r})\ncompile(open({path!r}).read(), 'x', 'exec')\nprint('written')"
    assert _run(call) == "written\n"


@pytest.mark.parametrize(
    "call", ["importers.torch(None, None)", "pytorch.apply(plan, None)", "pytorch.module_of(plan.network, {})",
             "pytorch.saved_bytes(None, None, None, None)", "importers.exported.from_reference('a:b')"],
)  # fmt: skip
def test_its_absence_is_told(call: str) -> None:
    code = f"try:\n    {call}\nexcept MissingExtraError as error:\n    print('told:', error)"
    assert "told: PyTorch cannot be imported" in _run(code)
    assert "sparseplan[torch]" in _run(code)
