"""Parameters from npz files: what the package ships, and what users bring. Never pickles."""

from __future__ import annotations

import os
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.builder import check_parameters
from sparseplan.errors import DataError, near
from sparseplan.network import Network
from sparseplan.npzfile import read_npz

Weights = dict[str, npt.NDArray[np.float32]]

#: weights that come with the package, by network
PRETRAINED = {"mobilenetv2_digits": "mobilenetv2_digits.npz", "upydnet": "upydnet_rooms.npz"}
#: bytes that a file of weights may have beyond its network's own (npy headers)
_HEADER = 1024
#: arrays that a file of weights may have
MAX_ENTRIES = 100_000


def read_weights(path: str | os.PathLike[str], network: Network) -> Weights:
    """All parameters of a network, as float32, from an npz of plain arrays.

    Raises:
        DataError: unreadable, not an npz, pickled, far larger than the network, a name missing or
            unknown, a wrong shape, NaN or infinite values.
    """
    where = f"weights {os.fspath(path)!r}"
    most = 8 * sum(network.tensor[p].elements for p in network.parameters) + _HEADER * (len(network.parameters) + 1)
    arrays: dict[str, Any] = dict(read_npz(path, most, "weights", MAX_ENTRIES))
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise DataError(f"{where}: array {name!r} has dtype={array.dtype}; give floats")
    try:
        check_parameters(network, arrays)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return {name: np.ascontiguousarray(arrays[name], np.float32) for name in network.parameters}


def pretrained(network: Network) -> Weights:
    """The weights that the package ships for a network of its zoo.

    Raises:
        DataError: there are none for it; names those that there are.
    """
    if network.name not in PRETRAINED:
        raise DataError(
            f"network {network.name!r} has no pretrained weights{near(network.name, PRETRAINED)}; "
            "give weights=FILE, an npz"
        )
    with resources.as_file(resources.files("sparseplan") / "zoo" / "weights" / PRETRAINED[network.name]) as path:
        return read_weights(path, network)
