"""The command line. Bad input: one message on stderr, exit code 2. No plan: exit code 1; one without updates: 3."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from sparseplan.cli.common import Handler, progress_end
from sparseplan.cli.interrupt import interruptible
from sparseplan.cli.parser import parser
from sparseplan.cli.wording import worded
from sparseplan.errors import InternalError, SparseplanError
from sparseplan.starting import is_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return interruptible(lambda: _main(argv), program=argv is None and is_command())


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    handler: Handler = args.handler
    try:
        # one thread: matrices are small, and results do not depend on the number of cores
        with threadpool_limits(limits=1):
            code = handler(args)
        sys.stdout.flush()
        return code
    except SparseplanError as error:
        progress_end()
        print(f"sparseplan: {worded(str(error), args)}", file=sys.stderr)
        return 2
    except InternalError as error:
        print(f"sparseplan: internal error: {error}; please report it with the command", file=sys.stderr)
        return 4
    except BrokenPipeError:  # the reader (head, less) left; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
