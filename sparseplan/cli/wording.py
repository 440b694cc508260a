"""Messages in the command line's own words: the options that were typed, not the Python arguments behind them."""

from __future__ import annotations

import argparse
import re
from typing import Any

#: Python arguments whose options have other names
_ALIASES = {
    "fraction": "fractions", "budget": "budgets", "patience": "early_stopping", "values": "value", "shapes": "shape",
    "fixed": "fix", "outputs": "output", "random_sets": "random",
}  # fmt: skip
#: in commands that have options of both names, training's come first
_TRAINING = {"optimizer": "train_optimizer", "batch": "train_batch"}
_VALUE = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\([^)]*\)|[^\s,;:()]+"""
_SAID = re.compile(rf"(?<![\w.'\"-])([a-z][a-z0-9_]*)=({_VALUE})")
#: advice for Python, then for the command line
_BOTH = re.compile(r"\b[a-z_]+=[^;]*?, or (--[a-z0-9-]+ [^;]*?) on the command line")
#: words before an argument that is advised rather than repeated
_ADVICE = re.compile(r"(?:\b(?:give|or|with|use|say|raise|change|needs|by)|\()\s*$")
_HIDDEN = frozenset(("handler", "command", "json", "network", "plan", "plans"))


def worded(message: str, args: argparse.Namespace) -> str:
    """``message`` with ``name=value`` as ``--name value`` where the command has such an option and the value is what
    was given for it, or what is advised; and names such as ``max_macs`` as ``--max-macs``."""
    given = {k: v for k, v in vars(args).items() if not k.startswith("_") and k not in _HIDDEN}

    def replaced(match: re.Match[str]) -> str:
        name, value = match[1], match[2].rstrip(".")
        known = [d for d in (_TRAINING.get(name, name), name, _ALIASES.get(name, name)) if d in given]
        dest = next((d for d in known if _is(value, given[d])), known[-1] if known else None)
        if dest is None:
            return match[0]
        if not _is(value, given[dest]) and not _ADVICE.search(message[: match.start()]):
            return match[0]
        return f"{_option(dest)} {_bare(value)}" + match[2][len(value) :]

    message = _BOTH.sub(r"\1", message)
    text = _SAID.sub(replaced, message)
    for dest in given:
        if "_" in dest:
            text = re.sub(rf"(?<![\w.'\"-]){dest}(?![\w='\"])", _option(dest), text)
    return text


def _option(dest: str) -> str:
    return "--" + dest.replace("_", "-")


def _bare(value: str) -> str:
    plain = value[1:-1]
    return plain if value[:1] in "'\"" and plain and not re.search(r"[\s'\"]", plain) else value


def _is(value: str, given: Any) -> bool:
    """Whether a value as it is printed is what was given, or one of what was given."""
    if given is None:
        return False
    if isinstance(given, (list, tuple)):
        return any(_is(value, g) for g in given)
    text = value[1:-1] if value[:1] in "'\"" and len(value) > 1 else value
    parts = [str(given), *(p.strip() for p in str(given).split(","))]
    if text in parts or value == repr(given):
        return True
    numbers = [_number(p) for p in parts]
    return _number(text) is not None and _number(text) in numbers


def _number(text: str) -> float | None:
    top, slash, bottom = text.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None
