"""The time-of-flight sensor and the metrics, against straightforward loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import DataError
from sparseplan.tasks.metrics import DEPTH_METRICS, depth_metrics
from sparseplan.tasks.tof import TofSensor, disparity, upsample

QUIET = TofSensor(noise=0, noise_share=0, dropout=0, dropout_far=0)


def depths(seed: int, n: int = 3, size: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 6, (n, size, size)).astype(np.float32)


def nearest_by_loops(depth: np.ndarray, zones: int, reach: float) -> np.ndarray:
    n, size = depth.shape[:2]
    side = size // zones
    result = np.empty((n, zones, zones), np.float32)
    for i in range(n):
        for r in range(zones):
            for c in range(zones):
                seen = [
                    float(d)
                    for d in depth[i, r * side : (r + 1) * side, c * side : (c + 1) * side].ravel()
                    if not math.isnan(d)
                ]
                result[i, r, c] = min(seen) if seen and min(seen) <= reach else math.nan
    return result


def bilinear_by_loops(zones: np.ndarray, size: int) -> np.ndarray:
    n, z = zones.shape[:2]
    result = np.empty((n, size, size))
    for i in range(n):
        for r in range(size):
            for c in range(size):
                if math.isnan(zones[i, r * z // size, c * z // size]):
                    result[i, r, c] = math.nan
                    continue
                total = share = 0.0
                y = min(max((r + 0.5) * z / size - 0.5, 0), z - 1)
                x = min(max((c + 0.5) * z / size - 0.5, 0), z - 1)
                for a in range(z):
                    for b in range(z):
                        weight = max(0, 1 - abs(a - y)) * max(0, 1 - abs(b - x))
                        if weight and not math.isnan(zones[i, a, b]):
                            total += weight * float(zones[i, a, b])
                            share += weight
                result[i, r, c] = total / share
    return result


def test_zones_report_their_nearest_surface() -> None:
    depth = depths(0)
    depth[0, :6, :6] = np.nan  # a zone without a surface
    depth[1, 6:12, :5] = np.nan  # a zone with some
    depth[2, 12:18, 12:18] = 4.5  # a zone out of reach
    np.testing.assert_array_equal(QUIET.measure(depth, 0), nearest_by_loops(depth, 8, 4.0))


def test_noise_and_dropout_have_their_size() -> None:
    depth = np.full((400, 48, 48), 2, np.float32)
    read = TofSensor(noise=0.01, noise_share=0.02, dropout=0.05, dropout_far=0.4).measure(depth, 1)
    lost = np.isnan(read)
    assert lost.mean() == pytest.approx(0.05 + 0.4 * 0.25, abs=0.01)
    assert np.nanmean(read) == pytest.approx(2, abs=0.002)
    assert np.nanstd(read) == pytest.approx(0.05, rel=0.03)
    assert not np.isnan(TofSensor(dropout=0, dropout_far=0).measure(depth, 1)).any()


def test_a_reading_repeats_with_its_seed() -> None:
    depth = depths(1)
    np.testing.assert_array_equal(TofSensor().measure(depth, 5), TofSensor().measure(depth, 5))
    assert not np.array_equal(TofSensor().measure(depth, 5), TofSensor().measure(depth, 6), equal_nan=True)


def test_noise_never_leaves_the_range() -> None:
    depth = np.full((50, 8, 8), 3.95, np.float32)
    read = TofSensor(noise=0.5, dropout=0, dropout_far=0).measure(depth, 2)
    assert np.isnan(read).any()
    assert np.nanmax(read) <= 4
    assert np.nanmin(read) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zones": 0}, "zones=0 must be an integer of at least 1"),
        ({"reach": 0.0}, "reach=0.0 must be a finite number"),
        ({"noise": -1.0}, "noise=-1.0 must be a finite number from 0"),
        ({"dropout": 1.5}, "dropout=1.5 must be a finite number from 0 to 1"),
        ({"dropout_far": math.nan}, "dropout_far=nan must be"),
    ],
)
def test_bad_sensors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TofSensor(**arguments)


def test_bad_depth() -> None:
    with pytest.raises(DataError, match=r"depth of shape \(2, 50, 48\) must be .* multiples of zones=8"):
        QUIET.measure(np.ones((2, 50, 48), np.float32), 0)
    with pytest.raises(DataError, match="depth has 1 values that are not positive"):
        QUIET.measure(np.where(np.arange(64).reshape(1, 8, 8) == 5, 0, 1).astype(np.float32), 0)


def test_disparity() -> None:
    got = disparity(np.array([[[2, np.nan]]], np.float32), 4.0)
    np.testing.assert_array_equal(got, np.array([[[2, np.nan]]], np.float32))
    with pytest.raises(DataError, match="fb=0 must be finite and positive"):
        disparity(got, 0)


def zones_with_holes(seed: int, z: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    zones = rng.uniform(1, 10, (2, z, z)).astype(np.float32)
    zones[rng.uniform(size=zones.shape) < 0.3] = np.nan
    return zones


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 6))
def test_upsampling_equals_loops(seed: int, z: int, factor: int) -> None:
    zones = zones_with_holes(seed, z)
    np.testing.assert_allclose(
        upsample(zones, z * factor, "bilinear"), bilinear_by_loops(zones, z * factor), rtol=1e-5, atol=1e-6
    )
    nearest = upsample(zones, z * factor, "nearest")
    for r in range(z * factor):
        for c in range(z * factor):
            np.testing.assert_array_equal(nearest[:, r, c], zones[:, r // factor, c // factor])


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_an_invalid_zone_never_reaches_its_neighbours(how: str) -> None:
    zones = np.full((1, 8, 8), 3, np.float32)
    zones[0, 3, 4] = np.nan
    wide = upsample(zones, 48, how)
    assert np.isnan(wide[0, 18:24, 24:30]).all()
    assert np.isnan(wide).sum() == 36
    np.testing.assert_allclose(wide[~np.isnan(wide)], 3, rtol=1e-6)


def test_bad_upsampling() -> None:
    zones = np.ones((1, 8, 8), np.float32)
    with pytest.raises(DataError, match="how='bilinaer' is unknown; did you mean 'bilinear'"):
        upsample(zones, 48, "bilinaer")
    with pytest.raises(DataError, match="size=50 a multiple"):
        upsample(zones, 50)
    with pytest.raises(DataError, match=r"zones of shape \(8, 8\) must be"):
        upsample(zones[0], 48)


def metrics_by_loops(p: np.ndarray, t: np.ndarray, low: float, high: float) -> dict[str, float]:
    rows: list[dict[str, float]] = []
    for i in range(len(p)):
        pairs = [
            (min(max(float(a), low), high), float(b))
            for a, b in zip(p[i].ravel(), t[i].ravel(), strict=True)
            if math.isfinite(b) and low <= b <= high
        ]
        if not pairs:
            continue
        n = len(pairs)
        logs = [math.log(a) - math.log(b) for a, b in pairs]
        mean = sum(logs) / n
        rows.append(
            {
                "abs_rel": sum(abs(a - b) / b for a, b in pairs) / n,
                "sq_rel": sum((a - b) ** 2 / b for a, b in pairs) / n,
                "rmse": math.sqrt(sum((a - b) ** 2 for a, b in pairs) / n),
                "rmse_log": math.sqrt(sum(e * e for e in logs) / n),
                "d1": sum(max(a / b, b / a) < 1.25 for a, b in pairs) / n,
                "d2": sum(max(a / b, b / a) < 1.25**2 for a, b in pairs) / n,
                "d3": sum(max(a / b, b / a) < 1.25**3 for a, b in pairs) / n,
                "silog": 10 * math.sqrt(sum((e - mean) ** 2 for e in logs) / n),
            }
        )
    return {k: sum(r[k] for r in rows) / len(rows) for k in DEPTH_METRICS}


@given(st.integers(0, 1000))
def test_metrics_equal_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0, 12, (3, 5, 4))
    t = rng.uniform(0.05, 11, (3, 5, 4))
    t[rng.uniform(size=t.shape) < 0.3] = np.nan
    t[2] = np.nan  # a picture without valid pixels is left out
    t[0, 0, 0] = 1.0
    got = depth_metrics(p, t, 0.1, 10)
    assert list(got) == list(DEPTH_METRICS)
    for name, value in metrics_by_loops(p, t, 0.1, 10).items():
        assert got[name] == pytest.approx(value, rel=1e-9), name


def test_a_perfect_prediction_and_a_scaled_one() -> None:
    t = depths(3).astype(np.float64)
    best = depth_metrics(t, t)
    assert all(best[k] == (1.0 if DEPTH_METRICS[k] == "higher" else 0.0) for k in DEPTH_METRICS)
    scaled = depth_metrics(1.5 * t, t)
    assert scaled["abs_rel"] == pytest.approx(0.5)
    assert scaled["silog"] == pytest.approx(0, abs=1e-5)  # blind to scale
    assert scaled["d1"] == 0
    assert scaled["d2"] == 1


def test_bad_metrics_input() -> None:
    t = depths(0)
    with pytest.raises(DataError, match=r"predicted depth of shape \(2, 48, 48\) must be .* truth's \(3, 48, 48\)"):
        depth_metrics(t[:2], t)
    with pytest.raises(DataError, match="low=2, high=1 must satisfy 0 < low < high"):
        depth_metrics(t, t, 2, 1)
    broken = t.copy()
    broken[0, 0, :2] = np.nan, np.inf
    with pytest.raises(DataError, match="predicted depth has 2 NaN or infinite values; did training diverge"):
        depth_metrics(broken, t)
    with pytest.raises(DataError, match=r"no valid pixel \(finite, 0.1 to 10.0 m\) in 3 pictures"):
        depth_metrics(t, np.full_like(t, np.nan))


def test_metrics_of_the_reference_output(reference_data: Any) -> None:
    """The published network on real pictures: figures that others computed (abs_rel 4.26, RMSE 6.54 m, δ1 0.005)."""
    with np.load(reference_data / "micro_sec_mde.npz", allow_pickle=False) as real:
        truth, split = real["depth"], real["split"]
    with np.load(reference_data / "upydnet_reference.npz", allow_pickle=False) as reference:
        output, index = reference["test_output"], reference["test_index"]
    assert (split[index] == 2).all()
    valid = np.where((truth > 0) & (truth < 4), truth, np.nan)[index]
    wide = upsample(valid.astype(np.float32), 48, "nearest")
    got = depth_metrics(np.clip(80 / np.maximum(output.reshape(-1, 48, 48), 1e-9), 0.1, 10), wide)
    assert got["abs_rel"] == pytest.approx(4.26, abs=0.01)
    assert got["rmse"] == pytest.approx(6.54, abs=0.01)
    assert got["d1"] == pytest.approx(0.005, abs=0.001)
