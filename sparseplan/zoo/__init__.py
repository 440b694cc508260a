"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from sparseplan.errors import NetworkError, near
from sparseplan.network import Network
from sparseplan.zoo.upydnet import upydnet

NETWORKS: dict[str, Callable[[], Network]] = {"upydnet": upydnet}


def get(name: str) -> Network:
    """The network called ``name``; raises NetworkError with near matches."""
    if name not in NETWORKS:
        raise NetworkError(f"network {name!r} is not in the zoo{near(str(name), NETWORKS)}")
    return NETWORKS[name]()


__all__ = ["NETWORKS", "get", "upydnet"]
