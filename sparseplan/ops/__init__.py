"""Op definitions, one file a family. Importing the package registers every family."""

from __future__ import annotations

import importlib
import pkgutil

from sparseplan.ops.base import LOSSES, OPS, LossDef, OpDef, OpInfo, infos, loss_def, op_def, resolve

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["LOSSES", "OPS", "LossDef", "OpDef", "OpInfo", "infos", "loss_def", "op_def", "resolve"]
