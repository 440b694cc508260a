"""How far runs in other processes are: each writes its share to a small file, and one thread here reads them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparseplan.solve.clock import OutOfTime

#: seconds between looks, and between what a run writes
LOOK = 0.5


class Share:
    """What one run writes; ``None`` as its place: nothing. A run that is asked to ends when its time is up.

    The shares are for people to look at: where they cannot be written nothing else suffers.
    """

    def __init__(self, place: str | None, name: str, until: float | None = None) -> None:
        """``until``: a time of day, as of ``time.time``."""
        self._file = None if place is None else Path(place) / name
        self._until = until
        self._last = 0.0

    def __call__(self, done: int, of: int) -> None:
        """``done`` of ``of`` updates are made.

        Raises:
            OutOfTime: the run is to end.
        """
        if self._until is not None and done < of and time.time() >= self._until:
            raise OutOfTime
        now = time.monotonic()
        if self._file is not None and (now - self._last >= LOOK or done == of):
            self._last = now
            with suppress(OSError):
                self._file.write_text(f"{done}/{of}")


def shares(place: str) -> dict[str, float]:
    """Shares done of the runs that have begun, by name."""
    found = {}
    with suppress(OSError):
        for file in sorted(Path(place).iterdir()):
            with suppress(OSError, ValueError, ZeroDivisionError):  # half written: at the next look
                done, _, of = file.read_text().partition("/")
                found[file.name] = int(done) / int(of)
    return found


@contextmanager
def watched(runs: int, progress: Callable[[str], None] | None) -> Iterator[str | None]:
    """A place for the shares of ``runs`` runs, told of twice a second while they change."""
    if progress is None:
        yield None
        return
    tell, done = progress, threading.Event()
    with tempfile.TemporaryDirectory(prefix="sparseplan-progress-", ignore_cleanup_errors=True) as place:

        def look() -> None:
            began, last = time.monotonic(), ""
            while not done.wait(LOOK):
                known = shares(place)
                under = [s for s in known.values() if s < 1]
                ready = sum(known.values()) / runs
                text = (
                    f"{sum(s >= 1 for s in known.values())} of {runs} runs trained, {len(under)} under way, {ready:.0%}"
                )
                text = f"training: {text}, {time.monotonic() - began:.0f} s"
                if text != last and known:
                    tell(text)
                last = text

        thread = threading.Thread(target=look, daemon=True, name="progress of runs")
        thread.start()
        try:
            yield place
        finally:
            done.set()
            thread.join()
