"""Ctrl-C at any moment: one line, exit code 130, and no process left behind.

A command runs in a thread of its own with SIGINT blocked, which the processes that it starts inherit: they print
nothing and end with it. The main thread does nothing but wait, so a signal is heard at once, whatever the command is
in the middle of.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sparseplan.starting import INTERRUPTED

#: seconds that a command has to clean up
_GRACE = 3.0


def interruptible(work: Callable[[], int], program: bool) -> int:
    """The exit code of ``work``; 130 after Ctrl-C, once it has cleaned up or its time for that is over.

    ``program``: the process is this command's own, and ends here after Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    result: list[int] = []
    failure: list[BaseException] = []
    done = threading.Event()  # a join that is interrupted takes the thread for dead (Python 3.11)

    def run() -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, daemon=True, name="command")
    try:
        if program:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # joblib's keeper of shared memory cleans up after killed workers: that it had to is no news to the user
            quiet = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]
            os.environ["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
        thread.start()
        while not done.wait(60):
            pass
    except KeyboardInterrupt:
        return _end(thread, done, program)
    if program:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to interrupt
        kill_children(os.getpid())  # idle workers, which take a second or two to end by themselves
    if failure:
        if isinstance(failure[0], KeyboardInterrupt):
            return _end(thread, done, program)
        raise failure[0]
    return result[0]


def _end(thread: threading.Thread, done: threading.Event, program: bool) -> int:
    with suppress(KeyboardInterrupt):  # a second Ctrl-C: no more patience
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )
        done.wait(_GRACE)
    if program:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        kill_children(os.getpid())
    print(("\r\033[K" if sys.stderr.isatty() else "") + INTERRUPTED, file=sys.stderr, flush=True)
    if program:
        os._exit(130)
    return 130


def kill_children(pid: int) -> None:
    """End the processes that a process has started, and theirs, where the system tells which they are."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listed.read_text().split()):
                # joblib's own keeper of shared memory cleans up, and ends by itself
                if b"resource_tracker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    continue
                kill_children(child)
                with suppress(OSError):
                    os.kill(child, signal.SIGKILL)
