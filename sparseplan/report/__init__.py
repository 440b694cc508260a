"""Plans and fronts as text that people like to read, and as figures."""

from sparseplan.report.compare import compare_rows, compare_text
from sparseplan.report.fronts import front_figure, front_text, nothing_of_front, save_front_figure, trained_text
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
from sparseplan.report.savings import copies, mark_savings, saving_rows, saving_text
from sparseplan.report.tiles import tile_rows, tile_text
from sparseplan.report.time import time_text

__all__ = [
    "KINDS",
    "compare_rows",
    "compare_text",
    "copies",
    "describe",
    "figure",
    "front_figure",
    "front_text",
    "inspect_text",
    "mark_savings",
    "nothing_of_front",
    "plot_buffers",
    "plot_bytes",
    "save_figure",
    "save_front_figure",
    "saving_rows",
    "saving_text",
    "summary",
    "tile_rows",
    "tile_text",
    "time_text",
    "trained_text",
]
