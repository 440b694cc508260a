"""Malformed and hostile specs, plans and devices: one clear line each, quickly, within bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    script = Path(__file__).with_name("hostile.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_one_is_refused_in_one_line_that_names_the_file(rows: list[dict[str, Any]]) -> None:
    assert len(rows) >= 80
    wrong = []
    for row in rows:
        lines = row["err"].strip().splitlines()
        refused = row["code"] == 2 and len(lines) == 1 and lines[0].startswith("sparseplan: ") and not row["out"]
        if row["code"] == 1 and row["kind"] == "plan":  # well formed, but what it says is wrong: the verifier's part
            refused = "violat" in row["out"] or ":" in row["out"]
        elif refused and row["kind"] != "device":
            refused = row["file"] in lines[0]
        if not refused or len(lines[0] if lines else "") > 1500:
            wrong.append((row["kind"], row["label"], row["code"], row["err"][-400:], row["out"][:200]))
    assert not wrong, "\n".join(map(str, wrong))


def test_messages_differ_from_case_to_case(rows: list[dict[str, Any]]) -> None:
    """A message that fits everything names no culprit."""
    texts = {row["err"].replace(row["file"], "FILE") for row in rows}
    assert len(texts) > 0.6 * len(rows)
