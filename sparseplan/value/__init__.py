"""Measures of what updating a parameter is worth, one file each, with one signature.

``(network, parameters, data, choices) -> parameter -> fraction -> value``. Measured contribution
takes trainings, and so comes in parts: ``contribution`` (what to train, and what came of it),
``pairs``, ``model`` (from measured gains to values of all sets), ``valuefile`` (on disk).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.absolute import absolute_gradient
from sparseplan.value.common import Choices, Table, ValueFunction
from sparseplan.value.costs import gradient_macs, per, update_bytes
from sparseplan.value.count import parameter_count
from sparseplan.value.fisher import fisher_information
from sparseplan.value.grad_norm import squared_gradient_norm
from sparseplan.value.magnitude import weight_magnitude


def fisher_per_byte(network: Network, parameters: Mapping[str, Array], data: Samples | None, choices: Choices) -> Table:
    """Fisher information per byte that the whole update needs (``update_bytes``, BF16, batch 1)."""
    return per(fisher_information(network, parameters, data, choices), update_bytes(network, choices))


def fisher_per_mac(network: Network, parameters: Mapping[str, Array], data: Samples | None, choices: Choices) -> Table:
    """Fisher information per multiply-accumulate of the whole gradient (``gradient_macs``)."""
    return per(fisher_information(network, parameters, data, choices), gradient_macs(network, choices))


#: measures by name, as the command line takes them
VALUES: Mapping[str, ValueFunction] = MappingProxyType(
    {
        "count": parameter_count,
        "magnitude": weight_magnitude,
        "gradient": squared_gradient_norm,
        "absolute-gradient": absolute_gradient,
        "fisher": fisher_information,
        "fisher-per-byte": fisher_per_byte,
        "fisher-per-mac": fisher_per_mac,
    }
)


def get_value(name: str) -> ValueFunction:
    """A measure by its name; raises ProblemError with near matches."""
    if name not in VALUES:
        raise ProblemError(f"value {name!r} is unknown{near(str(name), VALUES)}")
    return VALUES[name]


__all__ = [
    "VALUES",
    "ValueFunction",
    "absolute_gradient",
    "fisher_information",
    "fisher_per_byte",
    "fisher_per_mac",
    "get_value",
    "gradient_macs",
    "parameter_count",
    "per",
    "squared_gradient_norm",
    "update_bytes",
    "weight_magnitude",
]
