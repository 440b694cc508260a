"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from sparseplan.errors import NetworkError, near
from sparseplan.network import Network
from sparseplan.zoo.cct import cct_2_3x2
from sparseplan.zoo.classifiers import autoencoder, dscnn, mobilenetv1_025, resnet8
from sparseplan.zoo.mcunetv3 import mbv2_w035, mcunet_5fps, proxyless_w03
from sparseplan.zoo.mobilenetv2 import mobilenetv2, mobilenetv2_digits
from sparseplan.zoo.upydnet import upydnet

NETWORKS: dict[str, Callable[[], Network]] = {
    "upydnet": upydnet,
    "resnet8": resnet8,
    "dscnn": dscnn,
    "mobilenetv1_025": mobilenetv1_025,
    "autoencoder": autoencoder,
    "mobilenetv2": mobilenetv2,
    "mobilenetv2_digits": mobilenetv2_digits,
    "mbv2_w035": mbv2_w035,
    "mcunet_5fps": mcunet_5fps,
    "proxyless_w03": proxyless_w03,
    "cct_2_3x2": cct_2_3x2,
}


def get(name: str) -> Network:
    """The network called ``name``; raises NetworkError with near matches."""
    if name not in NETWORKS:
        raise NetworkError(f"network {name!r} is not in the zoo{near(str(name), NETWORKS)}")
    return NETWORKS[name]()


__all__ = [
    "NETWORKS",
    "autoencoder",
    "cct_2_3x2",
    "dscnn",
    "get",
    "mbv2_w035",
    "mcunet_5fps",
    "mobilenetv1_025",
    "mobilenetv2",
    "mobilenetv2_digits",
    "proxyless_w03",
    "resnet8",
    "upydnet",
]
