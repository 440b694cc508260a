"""Value by number of parameters."""

from __future__ import annotations

from collections.abc import Mapping

from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.common import Choices, Table, levels_of


def parameter_count(
    network: Network, parameters: Mapping[str, Array] | None, data: Samples | None, choices: Choices
) -> Table:
    """Elements that each allowed update changes: the measure of those who know nothing of the task.

    ``parameters`` and ``data`` are not looked at, and may be None.

    Raises:
        ProblemError: a parameter that is unknown, or a fraction that cannot be updated.
    """
    return {
        p: {r: levels.elements * levels.share(kept) for r, kept in levels.fractions}
        for p, levels in levels_of(network, choices).items()
    }
