"""Seeded procedural pictures of indoor scenes with their metric depth.

A picture is drawn in three moves: sample a room, its furniture and lamps (`furnish`); cast
rays (`raycast`); pass the radiance through a small camera model (exposure, tint, vignetting,
shot and read noise, eight bits). Picture *i* depends on (domain, seed, stream, i) alone, so
any subset can be drawn again, in any order, on any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sparseplan.errors import DataError
from sparseplan.tasks.domains import SOURCE, TARGET, Domain
from sparseplan.tasks.furnish import Rng, draw, furnish, stand
from sparseplan.tasks.raycast import F32, cast

__all__ = ["SOURCE", "TARGET", "Domain", "render"]


def render(
    domain: Domain,
    n: int,
    seed: int,
    stream: int = 0,
    size: int = 48,
    rays: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[F32, F32]:
    """Draw ``n`` pictures.

    Args:
        stream: separates sets that share a seed (training, validation, test).
        size: pixels a side. rays: rays a pixel and side (2 means four rays a pixel).
        progress: called with (done, n) after each picture.

    Returns:
        RGB (n, 3, size, size), float32 in 0..1, multiples of 1/255; and depth (n, size, size)
        in metres along the optical axis: of a pixel's rays the lower median, so a surface
        that is there and never a mean across an edge.

    Raises:
        DataError: ``n`` negative, ``size`` or ``rays`` below 1, seed or stream negative.
    """
    for label, value, least in (("n", n, 0), ("seed", seed, 0), ("stream", stream, 0), ("size", size, 1),
                                ("rays", rays, 1)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise DataError(f"{label}={value!r} must be an integer of at least {least}")
    rgb = np.empty((n, 3, size, size), np.float32)
    depth = np.empty((n, size, size), np.float32)
    for i in range(n):
        rgb[i], depth[i] = _picture(domain, np.random.default_rng([seed, stream, i]), size, rays)
        if progress:
            progress(i + 1, n)
    return rgb, depth


def _picture(domain: Domain, rng: Rng, size: int, rays: int) -> tuple[F32, F32]:
    room = draw(rng, domain.room_width, domain.room_height, domain.room_length)
    position, yaw = stand(domain, rng, room)
    scene = furnish(domain, rng, room, position, yaw)
    pitch, roll, fov = np.radians(draw(rng, domain.pitch, domain.roll, domain.fov))
    side = size * rays
    grid = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    reach = math.tan(fov / 2)
    x, y = np.meshgrid(grid * reach, -grid * reach)
    camera = np.stack([x.ravel(), y.ravel(), np.ones(side * side)])
    world = (_turn(yaw, pitch, roll) @ camera).astype(np.float32)
    radiance, depth = cast(scene, position, world)
    folded = radiance.reshape(3, size, rays, size, rays).mean(axis=(2, 4))
    behind = depth.reshape(size, rays, size, rays).swapaxes(1, 2).reshape(size, size, -1)
    middle = (rays * rays - 1) // 2
    return _expose(domain, rng, folded), np.partition(behind, middle, axis=-1)[..., middle]


def _turn(yaw: float, pitch: float, roll: float) -> F32:
    """Camera axes (right, up, forward) as columns in world axes; a positive pitch looks down."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return np.asarray(about_y @ about_x @ about_z, np.float32)


def _expose(domain: Domain, rng: Rng, radiance: F32) -> F32:
    """The camera: linear radiance (3, h, w) to eight-bit grey levels over 255."""
    size = radiance.shape[1]
    grid = (np.arange(size) + 0.5) / size * 2 - 1
    fall = 1 - rng.uniform(*domain.vignette) * (grid[:, None] ** 2 + grid[None] ** 2) / 2
    blue = rng.uniform(*domain.tint)
    seen = radiance * fall * np.array([1, (1 + blue) / 2, blue]).reshape(3, 1, 1)
    gamma = rng.uniform(*domain.gamma)
    goal = rng.uniform(*domain.exposure)
    # the exposure is set on linear light, as cameras do; gamma comes after
    linear = seen * (goal ** (1 / gamma) / max(float(seen.mean()), 1e-6))
    level = np.clip(linear, 0, 1) ** gamma
    sigma = rng.uniform(*domain.noise)
    # half of the variance of a mid-grey pixel is read noise, half is shot noise
    noisy = level + sigma * np.sqrt(0.5 + level) * rng.standard_normal(level.shape)
    return np.asarray(np.round(np.clip(noisy, 0, 1) * 255) / 255, np.float32)
