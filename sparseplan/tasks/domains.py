"""What indoor scenes look like and how a camera sees them: a source and a target domain."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from sparseplan.errors import DataError

Range = tuple[float, float]


@dataclass(frozen=True)
class Domain:
    """What rooms look like and how the camera sees them: ranges that are drawn from uniformly.

    Attributes:
        room_width, room_length, room_height: metres.
        camera_height: metres above the floor.
        pitch, roll: degrees; a positive pitch looks down.
        fov: horizontal field of view, degrees.
        view: wanted distance in metres to the wall straight ahead (met where the room allows).
        furniture, balls, lamps: how many, both ends included.
        furniture_scale: factor on the usual size of furniture.
        hue, saturation, brightness: of surfaces (0..1; a hue above 1 wraps around).
        patterns: relative frequency of plain, stripes, tiles, bricks, noise.
        contrast: how much darker or lighter a pattern's second colour is, 0..1.
        period: metres after which a pattern repeats.
        lamp_height: share of the room's height. lamp_power: white light at one metre.
        headlight: the same for a lamp just above the camera.
        warmth: share of blue that lamps lack, 0 (white) to 1. ambient: light from everywhere.
        exposure: mean grey level that the camera aims at, 0..1.
        tint: gain on blue over red (1 is neutral). vignette: share of light lost in the corners.
        gamma: exponent from linear light to grey levels.
        noise: standard deviation in grey levels (0..1) of a mid-grey pixel.

    Raises:
        DataError: a range that is not two finite numbers in order, or out of its bounds.
    """

    name: str
    room_width: Range
    room_length: Range
    room_height: Range
    camera_height: Range
    pitch: Range
    roll: Range
    fov: Range
    view: Range
    furniture: tuple[int, int]
    balls: tuple[int, int]
    lamps: tuple[int, int]
    furniture_scale: Range
    hue: Range
    saturation: Range
    brightness: Range
    patterns: tuple[float, float, float, float, float]
    contrast: Range
    period: Range
    lamp_height: Range
    lamp_power: Range
    headlight: Range
    warmth: Range
    ambient: Range
    exposure: Range
    tint: Range
    vignette: Range
    gamma: Range
    noise: Range

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "name":
                continue
            size = 5 if f.name == "patterns" else 2
            if not isinstance(value, tuple) or len(value) != size or not all(math.isfinite(v) for v in value):
                raise DataError(f"domain {self.name!r}: {f.name}={value!r} must be {size} finite numbers")
            if f.name == "patterns":
                if min(value) < 0 or sum(value) <= 0:
                    raise DataError(f"domain {self.name!r}: patterns={value} must be weights that are not all zero")
                continue
            low, high = _BOUNDS[f.name]
            if not low <= value[0] <= value[1] <= high:
                raise DataError(f"domain {self.name!r}: {f.name}={value} must rise within {low} to {high}")
        if self.camera_height[1] >= self.room_height[0]:
            raise DataError(
                f"domain {self.name!r}: camera_height={self.camera_height} reaches the ceiling"
                f" (room_height={self.room_height}); lower it"
            )


_BOUNDS: dict[str, Range] = {
    "room_width": (1.5, 50), "room_length": (1.5, 50), "room_height": (1.8, 20), "camera_height": (0.05, 19),
    "pitch": (-60, 60), "roll": (-45, 45), "fov": (20, 130), "view": (0, 100), "furniture": (0, 12),
    "balls": (0, 12), "lamps": (1, 4), "furniture_scale": (0.2, 3), "hue": (0, 2), "saturation": (0, 1),
    "brightness": (0, 1), "contrast": (0, 1), "period": (0.02, 10), "lamp_height": (0.05, 0.98),
    "lamp_power": (0, 100), "headlight": (0, 100), "warmth": (0, 1), "ambient": (0, 10), "exposure": (0.01, 0.9),
    "tint": (0.2, 5), "vignette": (0, 1), "gamma": (0.2, 2), "noise": (0, 0.5),
}  # fmt: skip

#: where the network is trained before it is shipped: bright, tidy rooms seen at eye level
SOURCE = Domain(
    name="source",
    room_width=(4.0, 8.0), room_length=(4.0, 9.0), room_height=(2.4, 3.2),
    camera_height=(1.2, 1.7), pitch=(-4.0, 14.0), roll=(-2.0, 2.0), fov=(58.0, 70.0), view=(2.0, 7.0),
    furniture=(2, 5), balls=(0, 2), lamps=(1, 2), furniture_scale=(0.9, 1.1),
    hue=(0.0, 1.0), saturation=(0.0, 0.35), brightness=(0.45, 0.95),
    patterns=(0.6, 0.08, 0.08, 0.12, 0.12), contrast=(0.1, 0.5), period=(0.4, 1.2),
    lamp_height=(0.8, 0.97), lamp_power=(3.0, 6.0), headlight=(0.0, 0.0), warmth=(0.0, 0.15), ambient=(0.3, 0.6),
    exposure=(0.42, 0.55), tint=(0.95, 1.05), vignette=(0.0, 0.1), gamma=(0.45, 0.5), noise=(0.005, 0.015),
)  # fmt: skip

#: where it has to work: a small robot's camera, lower and wider, in small rooms that are dim, warm in
#: colour and busily patterned, lit for the most part by the robot's own lamp
TARGET = Domain(
    name="target",
    room_width=(2.6, 5.0), room_length=(2.6, 6.0), room_height=(2.1, 2.7),
    camera_height=(0.9, 1.0), pitch=(4.0, 10.0), roll=(-2.0, 2.0), fov=(70.0, 72.0), view=(1.0, 4.5),
    furniture=(2, 5), balls=(0, 3), lamps=(1, 2), furniture_scale=(0.8, 1.0),
    hue=(0.9, 1.25), saturation=(0.3, 0.8), brightness=(0.3, 0.8),
    patterns=(0.2, 0.18, 0.2, 0.2, 0.22), contrast=(0.3, 0.7), period=(0.15, 0.6),
    lamp_height=(0.2, 0.6), lamp_power=(0.3, 1.0), headlight=(0.8, 1.2), warmth=(0.3, 0.7), ambient=(0.05, 0.1),
    exposure=(0.22, 0.36), tint=(0.6, 0.8), vignette=(0.3, 0.6), gamma=(0.55, 0.7), noise=(0.02, 0.04),
)  # fmt: skip
