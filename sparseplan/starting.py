"""Ctrl-C while the command line is still being imported ends with one line, too."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

#: printed when a command is interrupted
INTERRUPTED = "sparseplan: interrupted; nothing was half written, finished runs are stored"


def is_command() -> bool:
    """Whether this process was started as the command line, rather than by a program that imports the package."""
    started: list[str] = list(sys.orig_argv)
    if sys.argv and os.path.basename(sys.argv[0]) in ("-m", "__main__.py") and "-m" in started:
        return started[started.index("-m") + 1].split(".")[0] == "sparseplan"
    return bool(sys.argv) and os.path.basename(sys.argv[0]).split(".")[0] == "sparseplan"


def guard() -> None:
    """Until ``main`` takes over there is nothing to clean up: say so and go."""
    if is_command() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> None:
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)
