"""Ray casting of box rooms with boxes, spheres and point lights, vectorised over rays.

World axes: x and z span the floor, y is up; the room is the box from the origin to its
extents, in metres. Rays are not normalised: their direction has length 1 along the
camera's optical axis, so the ray parameter of a hit *is* its depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Index = NDArray[np.intp]

#: pattern kinds of a material
PLAIN, STRIPES, TILES, BRICKS, NOISE = range(5)
_NOISE_SIZE = 256
_TINY = np.float32(1e-6)


@dataclass(frozen=True)
class Materials:
    """Two-colour patterns, one row a material.

    Attributes:
        kind: (m,) one of PLAIN, STRIPES, TILES, BRICKS, NOISE.
        first, second: (m, 3) linear RGB albedo in 0..1; the pattern mixes the two.
        period: (m,) metres.
        emission: (m,) light given off, in units of a fully lit white surface.
    """

    kind: Index
    first: F32
    second: F32
    period: F32
    emission: F32


@dataclass(frozen=True)
class Scene:
    """A room with things in it. Material rows: 6 room faces, then boxes, spheres, decals.

    Room faces are numbered ``2 * axis + (1 if on the far side)``: 2 is the floor, 3 the ceiling.

    Attributes:
        room: (3,) extents in metres.
        box_centre, box_half: (k, 3) metres. box_yaw: (k,) radians about y.
        ball_centre: (s, 3), ball_radius: (s,) metres.
        decal_face: (q,) the wall that a flat rectangle (door, window, picture) hangs on.
        decal_low, decal_high: (q, 2) its corners in (along the wall, up) metres.
        skirting: height in metres of the darker strip at the foot of the walls.
        light: (l, 3) metres. power: (l, 3) RGB at one metre. ambient: (3,) RGB.
    """

    room: F32
    box_centre: F32
    box_half: F32
    box_yaw: F32
    ball_centre: F32
    ball_radius: F32
    decal_face: Index
    decal_low: F32
    decal_high: F32
    skirting: float
    materials: Materials
    light: F32
    power: F32
    ambient: F32


def cast(scene: Scene, origin: F32, rays: F32) -> tuple[F32, F32]:
    """Linear radiance (3, p) and depth (p,) in metres along ``rays`` (3, p) from ``origin`` (3,)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        depth, surface = _nearest(scene, origin, rays)
        point = origin[:, None] + depth * rays
        normal, along, up, surface = _surface(scene, point, rays, surface)
        albedo, emission = _albedo(scene, surface, along, up)
        light = np.repeat(scene.ambient[:, None], depth.size, axis=1)
        lifted = point + np.float32(1e-3) * normal
        for where, power in zip(scene.light, scene.power, strict=True):
            if not power.any():
                continue
            towards = where[:, None] - lifted
            squared = np.einsum("ap,ap->p", towards, towards)
            cosine = np.einsum("ap,ap->p", towards, normal) / np.sqrt(squared)
            # one bounded falloff for lamps and windows: 1/r² far away, finite close by
            strength = np.maximum(cosine, 0) / (np.float32(0.3) + squared)
            lit = np.flatnonzero(strength > 0)
            seen = ~_occluded(scene, lifted[:, lit], towards[:, lit])
            light[:, lit] += power[:, None] * (strength[lit] * seen)
        return albedo * light + emission, depth


def _box_spans(scene: Scene, origin: F32, rays: F32) -> tuple[F32, F32]:
    """Entry and exit (k, p) of each ray in each box; origin is (3,) or (3, p)."""
    cos, sin = np.cos(scene.box_yaw)[:, None], np.sin(scene.box_yaw)[:, None]
    start = origin.reshape(3, 1, -1) - scene.box_centre.T[:, :, None]
    enter = np.full((cos.size, rays.shape[1]), -np.inf, np.float32)
    leave = np.full_like(enter, np.inf)
    for axis, position, ray in (
        (0, cos * start[0] - sin * start[2], cos * rays[0] - sin * rays[2]),
        (1, start[1], rays[1][None]),
        (2, sin * start[0] + cos * start[2], sin * rays[0] + cos * rays[2]),
    ):
        inverse = 1 / np.where(np.abs(ray) < _TINY, _TINY, ray)
        middle = -position * inverse
        reach = scene.box_half[:, axis, None] * np.abs(inverse)
        np.maximum(enter, middle - reach, out=enter)
        np.minimum(leave, middle + reach, out=leave)
    return enter, leave


def _ball_roots(scene: Scene, origin: F32, rays: F32) -> tuple[F32, NDArray[np.bool_]]:
    """Nearer root (s, p) of each ray with each sphere, and whether there is one."""
    start = origin.reshape(3, 1, -1) - scene.ball_centre.T[:, :, None]
    a = np.einsum("ap,ap->p", rays, rays)
    b = np.einsum("asp,ap->sp", np.broadcast_to(start, (3, start.shape[1], rays.shape[1])), rays)
    c = np.einsum("asp,asp->sp", start, start) - scene.ball_radius[:, None] ** 2
    square = b * b - a * c
    return (-b - np.sqrt(np.maximum(square, 0))) / a, square > 0


def _nearest(scene: Scene, origin: F32, rays: F32) -> tuple[F32, Index]:
    safe = np.where(np.abs(rays) < _TINY, _TINY, rays)
    wall = np.where(safe > 0, scene.room[:, None] - origin[:, None], -origin[:, None]) / safe
    axis = np.argmin(wall, axis=0)
    depth = np.take_along_axis(wall, axis[None], axis=0)[0]
    surface = 2 * axis + (np.take_along_axis(safe, axis[None], axis=0)[0] > 0)
    boxes = scene.box_yaw.size
    if boxes:
        enter, leave = _box_spans(scene, origin, rays)
        enter[(enter > leave) | (enter <= 0)] = np.inf
        depth, surface = _closer(depth, surface, enter, 6)
    if scene.ball_radius.size:
        root, hit = _ball_roots(scene, origin, rays)
        root[~hit | (root <= 0)] = np.inf
        depth, surface = _closer(depth, surface, root, 6 + boxes)
    return depth, surface


def _closer(depth: F32, surface: Index, hits: F32, first: int) -> tuple[F32, Index]:
    which = np.argmin(hits, axis=0)
    near = np.take_along_axis(hits, which[None], axis=0)[0]
    return np.minimum(depth, near), np.where(near < depth, first + which, surface)


def _surface(scene: Scene, point: F32, rays: F32, surface: Index) -> tuple[F32, F32, F32, Index]:
    """Normal (3, p), texture coordinates along and up (p,) in metres, and material row (p,)."""
    normal = np.zeros_like(point)
    axis = surface // 2
    sign = np.where(surface % 2 == 1, -1, 1).astype(np.float32)
    for a in range(3):
        np.copyto(normal[a], sign, where=(surface < 6) & (axis == a))
    along = np.where(axis == 0, point[2], point[0])
    up = np.where(axis == 1, point[2], point[1])
    boxes = scene.box_yaw.size
    on = np.flatnonzero((surface >= 6) & (surface < 6 + boxes))
    if on.size:
        k = surface[on] - 6
        cos, sin = np.cos(scene.box_yaw[k]), np.sin(scene.box_yaw[k])
        offset = point[:, on] - scene.box_centre[k].T
        local = np.stack([cos * offset[0] - sin * offset[2], offset[1], sin * offset[0] + cos * offset[2]])
        face = np.argmax(np.abs(local) / scene.box_half[k].T, axis=0)
        side = np.sign(np.take_along_axis(local, face[None], axis=0)[0])
        nx, ny, nz = (np.where(face == a, side, np.float32(0)) for a in range(3))
        normal[:, on] = np.stack([cos * nx + sin * nz, ny, -sin * nx + cos * nz])
        along[on] = np.where(face == 0, local[2], local[0])
        up[on] = np.where(face == 1, local[2], local[1])
    on = np.flatnonzero(surface >= 6 + boxes)
    if on.size:
        s = surface[on] - 6 - boxes
        offset = (point[:, on] - scene.ball_centre[s].T) / scene.ball_radius[s]
        normal[:, on] = offset
        along[on] = np.arctan2(offset[0], offset[2]) * scene.ball_radius[s]
        up[on] = offset[1] * scene.ball_radius[s]
    row = surface.copy()
    for q, wall in enumerate(scene.decal_face):
        (l0, u0), (l1, u1) = scene.decal_low[q], scene.decal_high[q]
        inside = (surface == wall) & (along >= l0) & (along < l1) & (up >= u0) & (up < u1)
        row[inside] = 6 + boxes + scene.ball_radius.size + q
    return normal, along, up, row


def _albedo(scene: Scene, row: Index, along: F32, up: F32) -> tuple[F32, F32]:
    table = scene.materials
    period = table.period[row]
    u, v = along / period, up / period
    mix = np.zeros_like(u)
    kind = table.kind[row]
    for pattern in np.unique(kind):
        if pattern != PLAIN:
            on = np.flatnonzero(kind == pattern)
            mix[on] = _pattern(int(pattern), u[on], v[on])
    first, second = table.first[row].T, table.second[row].T
    colour = first + mix * (second - first)
    walls = (row < 6) & (row // 2 != 1)
    colour[:, walls & (up < scene.skirting)] *= np.float32(0.35)
    return colour, table.emission[row]


def _pattern(kind: int, u: F32, v: F32) -> F32:
    """Share of the second colour, 0..1, at pattern coordinates (u, v) in periods."""
    if kind == STRIPES:
        return (u - np.floor(u) > 0.5).astype(np.float32)
    if kind == TILES:
        checked = (np.floor(u).astype(np.int64) + np.floor(v).astype(np.int64)) % 2
        return checked.astype(np.float32)
    if kind == BRICKS:
        row = np.floor(v * 3)
        shifted = u + np.float32(0.5) * np.mod(row, 2)
        joint = (shifted - np.floor(shifted) < 0.06) | (v * 3 - row < 0.12)
        tone = _noise()[row.astype(np.int64) % _NOISE_SIZE, np.floor(shifted).astype(np.int64) * 7 % _NOISE_SIZE]
        return np.where(joint, np.float32(1), np.float32(0.5) * tone)
    scale = np.float32(_NOISE_SIZE / 8)
    where = (v * scale).astype(np.int64) % _NOISE_SIZE, (u * scale).astype(np.int64) % _NOISE_SIZE
    return np.asarray(_noise()[where], np.float32)


@lru_cache(maxsize=1)
def _noise() -> F32:
    """A tileable fractal pattern in 0..1, always the same: octaves of smoothed white noise."""
    rng = np.random.default_rng(20481)
    total = np.zeros((_NOISE_SIZE, _NOISE_SIZE))
    frequency: Any = np.fft.fftfreq(_NOISE_SIZE) * _NOISE_SIZE
    radius = np.hypot(frequency[:, None], frequency[None])
    for octave in (8, 16, 32, 64):
        white = np.fft.fft2(rng.standard_normal(total.shape))
        layer = np.real(np.fft.ifft2(white * np.exp(-((radius / octave) ** 2))))
        total += layer / layer.std() / octave**0.7
    spread = np.clip(total / (2.2 * total.std()), -1, 1)
    return np.asarray((spread + 1) / 2, np.float32)


def _occluded(scene: Scene, point: F32, towards: F32) -> NDArray[np.bool_]:
    """Whether something stands between each point (3, p) and its light at ``point + towards``."""
    dark = np.zeros(point.shape[1], bool)
    if scene.box_yaw.size:
        enter, leave = _box_spans(scene, point, towards)
        dark |= ((enter < leave) & (enter > 0) & (enter < 1)).any(axis=0)
    if scene.ball_radius.size:
        root, hit = _ball_roots(scene, point, towards)
        dark |= (hit & (root > 0) & (root < 1)).any(axis=0)
    return dark
