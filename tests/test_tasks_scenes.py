"""Rendered rooms: repeatable, in range, and geometrically right."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from sparseplan.errors import DataError
from sparseplan.tasks.domains import SOURCE, TARGET, Domain
from sparseplan.tasks.raycast import BRICKS, NOISE, PLAIN, STRIPES, TILES, Materials, Scene, cast
from sparseplan.tasks.scenes import render


def materials(rows: int, kind: int = PLAIN, emission: float = 0.0) -> Materials:
    """White first, black second colour."""
    return Materials(
        kind=np.full(rows, kind),
        first=np.ones((rows, 3), np.float32),
        second=np.zeros((rows, 3), np.float32),
        period=np.ones(rows, np.float32),
        emission=np.full(rows, emission, np.float32),
    )


def bare_scene(**changes: Any) -> Scene:
    """A room of 4 × 3 × 6 m with ambient light and nothing in it."""
    empty = np.zeros((0, 3), np.float32)
    scene = Scene(
        room=np.array([4, 3, 6], np.float32),
        box_centre=empty,
        box_half=empty,
        box_yaw=np.zeros(0, np.float32),
        ball_centre=empty,
        ball_radius=np.zeros(0, np.float32),
        decal_face=np.zeros(0, np.intp),
        decal_low=np.zeros((0, 2), np.float32),
        decal_high=np.zeros((0, 2), np.float32),
        skirting=0.0,
        materials=materials(6),
        light=empty,
        power=empty,
        ambient=np.ones(3, np.float32),
    )
    return dataclasses.replace(scene, **changes)


def rays(*directions: tuple[float, float, float]) -> np.ndarray:
    return np.array(directions, np.float32).T


EYE = np.array([1, 1, 2], np.float32)


@pytest.mark.parametrize("domain", [SOURCE, TARGET], ids=lambda d: d.name)
def test_pictures_are_in_range_and_differ(domain: Domain) -> None:
    rgb, depth = render(domain, 6, seed=3)
    assert rgb.shape == (6, 3, 48, 48)
    assert depth.shape == (6, 48, 48)
    assert rgb.dtype == depth.dtype == np.float32
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    levels = rgb * 255
    assert np.abs(levels - np.round(levels)).max() < 1e-3
    diagonal = math.hypot(domain.room_width[1], domain.room_height[1], domain.room_length[1])
    assert depth.min() > 0
    assert depth.max() <= diagonal
    assert np.ptp(rgb.mean(axis=(1, 2, 3))) > 0
    assert all(rgb[i].std() > 0.02 for i in range(6)), "no picture is of one colour"
    assert all(np.ptp(d) > 0.1 for d in depth), "no picture is of one depth"


def test_a_picture_depends_on_its_index_alone() -> None:
    few, all_of_them = render(TARGET, 3, seed=5), render(TARGET, 5, seed=5)
    for a, b in zip(few, all_of_them, strict=True):
        np.testing.assert_array_equal(a, b[:3])


def test_seeds_and_streams_give_other_pictures() -> None:
    one = render(TARGET, 2, seed=5)[1]
    assert not np.array_equal(one, render(TARGET, 2, seed=6)[1])
    assert not np.array_equal(one, render(TARGET, 2, seed=5, stream=1)[1])


def test_progress_counts_pictures() -> None:
    seen: list[tuple[int, int]] = []
    render(SOURCE, 3, seed=0, size=8, rays=1, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_target_is_shifted() -> None:
    (bright, far), (dim, near) = (render(d, 24, seed=1, size=24) for d in (SOURCE, TARGET))
    assert dim.mean() < bright.mean() - 0.1
    assert np.median(near) < 0.8 * np.median(far)
    # the target is warm: far less blue than red
    assert dim[:, 2].mean() < 0.7 * dim[:, 0].mean()
    assert bright[:, 2].mean() > 0.85 * bright[:, 0].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1, "seed": 0}, "n=-1 must be an integer of at least 0"),
        ({"n": 1, "seed": -2}, "seed=-2 must be an integer of at least 0"),
        ({"n": 1, "seed": 0, "size": 0}, "size=0 must be an integer of at least 1"),
        ({"n": 1, "seed": 0, "rays": 1.5}, "rays=1.5 must be an integer"),
        ({"n": 1, "seed": 0, "stream": True}, "stream=True must be an integer"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(SOURCE, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fov": (90.0, 70.0)}, r"fov=\(90.0, 70.0\) must rise within 20 to 130"),
        ({"pitch": (0.0, math.nan)}, "pitch=.* must be 2 finite numbers"),
        ({"noise": 0.1}, "noise=0.1 must be 2 finite numbers"),
        ({"patterns": (0.0, 0.0, 0.0, 0.0, 0.0)}, "weights that are not all zero"),
        ({"patterns": (1.0, 1.0)}, "patterns=.* must be 5 finite numbers"),
        ({"lamps": (0, 1)}, r"lamps=\(0, 1\) must rise within 1 to 4"),
        ({"camera_height": (1.0, 3.0)}, "reaches the ceiling"),
    ],
)
def test_bad_domains(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(SOURCE, **change)


def test_depth_of_bare_walls() -> None:
    _, depth = cast(bare_scene(), EYE, rays((0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)))
    np.testing.assert_allclose(depth, [4, 2, 3, 1, 2, 1], rtol=1e-5)
    # a slanted ray hits the wall at the same depth along the axis
    _, depth = cast(bare_scene(), EYE, rays((0.3, 0.2, 1)))
    np.testing.assert_allclose(depth, [4], rtol=1e-5)


def test_depth_of_a_turned_box_and_a_ball() -> None:
    box = bare_scene(
        box_centre=np.array([[1, 1, 4]], np.float32),
        box_half=np.array([[0.5, 0.5, 0.5]], np.float32),
        box_yaw=np.array([math.pi / 4], np.float32),
        materials=materials(7),
    )
    _, depth = cast(box, EYE, rays((0, 0, 1), (0.6, 0, 1)))
    np.testing.assert_allclose(depth, [2 - math.sqrt(0.5), 4], rtol=1e-5)
    ball = bare_scene(
        ball_centre=np.array([[1, 1, 4]], np.float32),
        ball_radius=np.array([0.5], np.float32),
        materials=materials(7),
    )
    _, depth = cast(ball, EYE, rays((0, 0, 1), (0, 0, -1)))
    np.testing.assert_allclose(depth, [1.5, 2], rtol=1e-5)


def test_what_stands_in_the_light_casts_a_shadow() -> None:
    lamp = {"light": np.array([[1, 2.5, 2]], np.float32), "power": np.ones((1, 3), np.float32)}
    dark = {"ambient": np.zeros(3, np.float32)}
    down = rays((0, -1, 0.001), (0, -1, 1.5))
    free, _ = cast(bare_scene(**lamp, **dark), EYE, down)
    assert (free > 0).all()
    board = {
        "box_centre": np.array([[1, 1.5, 2]], np.float32),
        "box_half": np.array([[0.2, 0.05, 0.2]], np.float32),
        "box_yaw": np.zeros(1, np.float32),
        "materials": materials(7),
    }
    shaded, _ = cast(bare_scene(**lamp, **dark, **board), EYE, down)
    assert (shaded[:, 0] == 0).all(), "straight below the board"
    np.testing.assert_allclose(shaded[:, 1], free[:, 1])
    ball = {
        "ball_centre": np.array([[1, 1.6, 2]], np.float32),
        "ball_radius": np.array([0.3], np.float32),
        "materials": materials(7),
    }
    shaded, _ = cast(bare_scene(**lamp, **dark, **ball), EYE, down)
    assert (shaded[:, 0] == 0).all()


def test_light_falls_with_distance_and_slant() -> None:
    lamp = {"light": np.array([[1, 1, 2]], np.float32), "power": np.full((1, 3), 2, np.float32)}
    seen, _ = cast(bare_scene(**lamp, ambient=np.zeros(3, np.float32)), EYE, rays((0, 0, 1), (0.5, 0, 1)))
    np.testing.assert_allclose(seen[:, 0], 2 / (0.3 + 16), rtol=1e-3)
    np.testing.assert_allclose(seen[:, 1], 2 / math.sqrt(1.25) / (0.3 + 20), rtol=1e-3)


@pytest.mark.parametrize("kind", [STRIPES, TILES, BRICKS, NOISE])
def test_patterns_mix_two_colours(kind: int) -> None:
    grid = np.linspace(-0.7, 0.7, 40, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    seen, _ = cast(bare_scene(materials=materials(6, kind)), EYE, np.stack([x.ravel(), y.ravel(), np.ones(1600)]))
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert seen.std() > 0.1


def test_decals_and_skirting_and_emission() -> None:
    paint = materials(7)
    paint.first[6] = (0, 0, 1)
    scene = bare_scene(
        decal_face=np.array([5]),
        decal_low=np.array([[0.5, 0.5]], np.float32),
        decal_high=np.array([[1.5, 1.5]], np.float32),
        materials=paint,
        skirting=0.1,
    )
    seen, _ = cast(scene, EYE, rays((0, 0, 1), (0, 0.2, 1), (0, -0.24, 1)))
    np.testing.assert_allclose(seen.T, [(0, 0, 1), (1, 1, 1), (0.35, 0.35, 0.35)], rtol=1e-5)
    glowing, _ = cast(bare_scene(materials=materials(6, emission=0.5)), EYE, rays((0, 0, 1)))
    np.testing.assert_allclose(glowing, 1.5)
