"""Plans as JSON for other programs, and the schemas (JSON Schema 2020-12) that say what such files hold."""

from __future__ import annotations

import json
import os
from importlib import resources
from typing import Any

from sparseplan.errors import PlanError, near
from sparseplan.plan import Plan
from sparseplan.planfile import write_plan

#: what there is a schema of
SCHEMAS = ("plan", "network")


def export(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write the plan file, whole or not at all; ``schema()`` describes it, ``read_plan`` reads it.

    Raises:
        OutputError: the file cannot be written.
    """
    write_plan(plan, path)


def schema(of: str = "plan") -> dict[str, Any]:
    """The schema of plan files (version 4) or of network specs (version 1), complete in itself.

    A file that validates is well formed: names that are not known, shapes that do not fit and false
    claims are for ``read_plan``, ``read_spec`` and ``verify`` to find. That of plan files holds that of
    the specs in them.

    Raises:
        PlanError: no such schema.
    """
    if of not in SCHEMAS:
        raise PlanError(f"schema of={of!r} is unknown{near(str(of), SCHEMAS)}")
    found = _load(of)
    if of == "plan":
        found["$defs"]["network"] = _load("network")
    return found


def _load(name: str) -> dict[str, Any]:
    text = (resources.files("sparseplan") / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
