"""Sampling of scenes: where the camera stands, what stands around it, how it is painted and lit."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.tasks.domains import Domain, Range
from sparseplan.tasks.raycast import F32, Materials, Scene

Rng = np.random.Generator


def draw(rng: Rng, *ranges: Range) -> F32:
    return np.asarray([rng.uniform(*r) for r in ranges], np.float32)


def stand(domain: Domain, rng: Rng, room: F32) -> tuple[F32, float]:
    """A place to stand and a heading whose wall ahead is about as far as the domain wants."""
    wanted = rng.uniform(*domain.view)
    height = rng.uniform(*domain.camera_height)
    best: tuple[float, F32, float] | None = None
    for _ in range(12):
        place = np.array([rng.uniform(0.3, room[0] - 0.3), height, rng.uniform(0.3, room[2] - 0.3)], np.float32)
        yaw = rng.uniform(-math.pi, math.pi)
        ahead = min(
            ((room[a] - place[a]) if d > 0 else -place[a]) / d
            for a, d in ((0, math.sin(yaw) or 1e-9), (2, math.cos(yaw) or 1e-9))
        )
        miss = abs(float(ahead) - wanted)
        if best is None or miss < best[0]:
            best = miss, place, yaw
    assert best is not None
    return best[1], best[2]


def furnish(domain: Domain, rng: Rng, room: F32, eye: F32, yaw: float) -> Scene:
    boxes: list[tuple[F32, F32, float]] = []
    wears: list[int] = []  # which piece of furniture a box belongs to
    for piece in range(rng.integers(domain.furniture[0], domain.furniture[1] + 1)):
        for box in _piece(domain, rng, room, eye, yaw):
            boxes.append(box)
            wears.append(piece)
    balls: list[tuple[F32, float]] = []
    for _ in range(rng.integers(domain.balls[0], domain.balls[1] + 1)):
        radius = rng.uniform(0.1, 0.3) * rng.uniform(*domain.furniture_scale)
        x, z = _ahead(domain, rng, room, eye, yaw, radius)
        if math.hypot(x - eye[0], z - eye[2]) > radius + 0.3:
            balls.append((np.array([x, radius, z], np.float32), radius))
    faces, lows, highs = _decals(rng, room)
    lamps = [
        draw(rng, (0.2, room[0] - 0.2), (0.0, 0.0), (0.2, room[2] - 0.2))
        + np.array([0, room[1] * rng.uniform(*domain.lamp_height), 0], np.float32)
        for _ in range(rng.integers(domain.lamps[0], domain.lamps[1] + 1))
    ]
    powers = [rng.uniform(*domain.lamp_power) for _ in lamps] + [rng.uniform(*domain.headlight)]
    lamps.append(eye + np.array([0, 0.1, 0], np.float32))
    glow = np.array([1, 1 - 0.5 * (w := rng.uniform(*domain.warmth)), 1 - w], np.float32)
    return Scene(
        room=room,
        box_centre=np.array([b[0] for b in boxes], np.float32).reshape(-1, 3),
        box_half=np.array([b[1] for b in boxes], np.float32).reshape(-1, 3),
        box_yaw=np.array([b[2] for b in boxes], np.float32),
        ball_centre=np.array([b[0] for b in balls], np.float32).reshape(-1, 3),
        ball_radius=np.array([b[1] for b in balls], np.float32),
        decal_face=np.array(faces, np.intp),
        decal_low=np.array(lows, np.float32).reshape(-1, 2),
        decal_high=np.array(highs, np.float32).reshape(-1, 2),
        skirting=float(rng.choice([0.0, 0.08])),
        materials=_paint(domain, rng, wears, len(balls), len(faces)),
        light=np.stack(lamps),
        power=np.array(powers, np.float32)[:, None] * glow,
        ambient=glow * np.float32(rng.uniform(*domain.ambient)),
    )


def _ahead(domain: Domain, rng: Rng, room: F32, eye: F32, yaw: float, margin: float) -> tuple[float, float]:
    """A place on the floor in front of the camera, inside the room."""
    half = math.radians(domain.fov[1]) / 2
    angle, far = yaw + rng.uniform(-half, half), rng.uniform(0.5, max(0.6, domain.view[1]))
    x, z = eye[0] + far * math.sin(angle), eye[2] + far * math.cos(angle)
    return float(np.clip(x, margin, room[0] - margin)), float(np.clip(z, margin, room[2] - margin))


def _piece(domain: Domain, rng: Rng, room: F32, eye: F32, yaw: float) -> list[tuple[F32, F32, float]]:
    """One piece of furniture as boxes (centre, half extents, yaw); none where the camera stands."""
    scale = rng.uniform(*domain.furniture_scale)
    kind = rng.choice(["cabinet", "sofa", "desk", "crate", "pillar"], p=[0.3, 0.2, 0.2, 0.2, 0.1])
    u = rng.uniform(size=3)
    # boxes as (left, right, bottom, top, back, front); the back is against the wall
    w, d, h = {
        "cabinet": (0.6 + 0.8 * u[0], 0.35 + 0.25 * u[1], 0.7 + 1.3 * u[2]),
        "sofa": (1.4 + 0.8 * u[0], 0.85, 0.8),
        "desk": (1.0 + 0.8 * u[0], 0.6 + 0.2 * u[1], 0.74),
        "crate": (0.3 + 0.5 * u[0], 0.3 + 0.5 * u[1], 0.3 + 0.5 * u[2]),
        "pillar": (0.25 + 0.2 * u[0], 0.25 + 0.2 * u[0], 0.0),
    }[str(kind)]
    w, d, h = w * scale, d * scale, h * scale
    if kind == "sofa":
        parts = [(-w / 2, w / 2, 0, 0.5 * h, 0, d), (-w / 2, w / 2, 0, h, 0, 0.25 * d)]
    elif kind == "desk":
        edge = 0.05
        parts = [(-w / 2, w / 2, h - edge, h, 0, d)]
        parts += [(s - edge / 2, s + edge / 2, 0, h - edge, 0, d) for s in (-w / 2 + edge, w / 2 - edge)]
    else:
        parts = [(-w / 2, w / 2, 0, h if kind != "pillar" else float(room[1]), 0, d)]
    if kind in ("crate", "pillar"):
        turn = rng.uniform(-math.pi, math.pi) if kind == "crate" else 0.0
        x, z = _ahead(domain, rng, room, eye, yaw, max(w, d) / 2)
    else:
        wall = rng.integers(4)
        turn = wall * math.pi / 2
        along = rng.uniform(0.5 * min(w, 1.0), (room[0] if wall % 2 == 0 else room[2]) - 0.5 * min(w, 1.0))
        x, z = ((along, 0.0), (0.0, along), (along, float(room[2])), (float(room[0]), along))[wall]
    cos, sin = math.cos(turn), math.sin(turn)
    result = []
    for left, right, bottom, top, back, front in parts:
        mx, mz = (left + right) / 2, (back + front) / 2
        centre = np.array([x + cos * mx + sin * mz, (bottom + top) / 2, z - sin * mx + cos * mz], np.float32)
        half = np.array([(right - left) / 2, (top - bottom) / 2, (front - back) / 2], np.float32)
        rx, rz = eye[0] - centre[0], eye[2] - centre[2]
        gap = max(abs(cos * rx - sin * rz) - half[0], abs(sin * rx + cos * rz) - half[2])
        if gap < 0.3:
            return []
        result.append((centre, half, turn))
    return result


def _decals(rng: Rng, room: F32) -> tuple[list[int], list[list[float]], list[list[float]]]:
    """A door, windows and pictures: wall, lower and upper corners."""
    faces, lows, highs = [], [], []
    for kind in ("door", "window", "window", "picture", "picture", "picture"):
        if rng.uniform() < 0.55:
            face = int(rng.choice([0, 1, 4, 5]))
            width = float(room[2] if face < 2 else room[0])
            w, bottom, h = {
                "door": (0.85, 0.0, 2.0),
                "window": (rng.uniform(0.8, 1.5), 0.9, rng.uniform(0.9, 1.2)),
                "picture": (rng.uniform(0.3, 0.9), rng.uniform(1.1, 1.5), rng.uniform(0.3, 0.6)),
            }[kind]
            left = rng.uniform(0, max(width - w, 0.01))
            faces.append(face)
            lows.append([left, bottom])
            highs.append([left + w, bottom + h])
    return faces, lows, highs


def _paint(domain: Domain, rng: Rng, wears: list[int], balls: int, decals: int) -> Materials:
    def colour() -> F32:
        h, s, v = draw(rng, domain.hue, domain.saturation, domain.brightness)
        wave = np.abs(np.mod(h * 6 + np.array([0, 4, 2], np.float32), 6) - 3) - 1
        return np.asarray(v * (1 - s + s * np.clip(wave, 0, 1)), np.float32)

    weights = np.asarray(domain.patterns) / sum(domain.patterns)

    def material(patterned: bool = True) -> tuple[int, F32, F32, float, float]:
        first = colour()
        change = rng.uniform(*domain.contrast)
        second = first * (1 - change) if rng.uniform() < 0.7 else first + change * (1 - first)
        kind = int(rng.choice(5, p=weights)) if patterned else 0
        return kind, first, second.astype(np.float32), rng.uniform(*domain.period), 0.0

    wall, floor = material(), material()
    ceiling = material(patterned=False)
    ceiling = (ceiling[0], 0.5 + 0.5 * ceiling[1], ceiling[2], ceiling[3], ceiling[4])
    accent = material() if rng.uniform() < 0.3 else wall
    sides = [accent if rng.uniform() < 0.3 else wall for _ in range(4)]
    rows = [sides[0], sides[1], floor, ceiling, sides[2], sides[3]]
    pieces = {piece: material() for piece in dict.fromkeys(wears)}
    rows += [pieces[piece] for piece in wears]
    rows += [material() for _ in range(balls)]
    for _ in range(decals):
        kind, first, second, period, _none = material()
        rows.append((kind, first, second, period, float(rng.choice([0.0, 0.0, 0.6]))))
    kinds = np.array([r[0] for r in rows], np.intp)
    return Materials(
        kind=kinds,
        first=np.stack([r[1] for r in rows]).astype(np.float32),
        second=np.stack([r[2] for r in rows]).astype(np.float32),
        period=np.array([r[3] for r in rows], np.float32),
        emission=np.array([r[4] for r in rows], np.float32),
    )
