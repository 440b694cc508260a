"""Plans and fronts as text that people like to read, and as figures."""

from sparseplan.report.fronts import front_figure, front_text, save_front_figure, trained_text
from sparseplan.report.plans import (
    KINDS,
    describe,
    figure,
    inspect_text,
    plot_buffers,
    plot_bytes,
    save_figure,
    summary,
)
from sparseplan.report.tiles import tile_rows, tile_text
from sparseplan.report.time import time_text

__all__ = [
    "KINDS",
    "describe",
    "figure",
    "front_figure",
    "front_text",
    "inspect_text",
    "plot_buffers",
    "plot_bytes",
    "save_figure",
    "save_front_figure",
    "summary",
    "tile_rows",
    "tile_text",
    "time_text",
    "trained_text",
]
