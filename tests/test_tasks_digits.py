"""Digits in another light, the classification metrics, and what adapting the shipped network buys."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import DataError, MissingExtraError
from sparseplan.run.trainer import predict, train
from sparseplan.tasks import digits, get_task
from sparseplan.tasks.base import Split
from sparseplan.tasks.classify import CLASS_METRICS, ClassificationTask, class_metrics
from sparseplan.tasks.digits import SOURCE, TARGET, DigitsDomain, DigitsTask, digits_task, draw, pool
from sparseplan.weights import pretrained
from sparseplan.zoo import mobilenetv2_digits

pytest.importorskip("sklearn", reason="needs the extra 'digits'")


@pytest.fixture(scope="module")
def task() -> DigitsTask:
    return digits_task()


def metrics_by_loops(logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    n, k = logits.shape
    guesses = [max(range(k), key=lambda c: logits[i, c]) for i in range(n)]
    right, loss = 0, 0.0
    for i in range(n):
        right += guesses[i] == classes[i]
        loss += math.log(sum(math.exp(float(z - logits[i, classes[i]])) for z in logits[i]))
    scores = []
    for c in range(k):
        tp = sum(g == c == t for g, t in zip(guesses, classes, strict=True))
        predicted, there = guesses.count(c), list(classes).count(c)
        if predicted or there:
            precision, recall = tp / predicted if predicted else 0.0, tp / there if there else 0.0
            scores.append(2 * precision * recall / (precision + recall) if tp else 0.0)
    return {"accuracy": right / n, "macro_f1": sum(scores) / len(scores), "cross_entropy": loss / n}


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 6))
def test_metrics_equal_loops(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    logits, classes = rng.normal(0, 3, (n, k)), rng.integers(0, k, n)
    got = class_metrics(logits, classes)
    assert list(got) == list(CLASS_METRICS)
    for name, value in metrics_by_loops(logits, classes).items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    shifted = class_metrics(logits + 1e3, classes)
    assert shifted["cross_entropy"] == pytest.approx(got["cross_entropy"], rel=1e-6, abs=1e-9)


def test_macro_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score, log_loss

    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(60, 5)), rng.integers(0, 4, 60)
    got = class_metrics(logits, classes)
    assert got["macro_f1"] == pytest.approx(f1_score(classes, logits.argmax(axis=1), average="macro"))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert got["cross_entropy"] == pytest.approx(log_loss(classes, shares, labels=range(5)))


@pytest.mark.parametrize(
    ("logits", "classes", "message"),
    [
        (np.ones((3, 2)), np.zeros(2, int), r"logits of shape \(3, 2\) must be \(n, classes\) with classes .* \(2,\)"),
        (np.full((2, 2), np.nan), np.zeros(2, int), "logits have NaN or infinite values; did training diverge"),
        (np.ones((2, 2)), np.array([0, 2]), "classes run from 0 to 2; the network's output has 2"),
    ],
)
def test_bad_metrics_input(logits: Any, classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_metrics(logits, classes)


def test_the_task(task: DigitsTask) -> None:
    assert get_task("digits").name == task.name == "digits-target"
    assert (task.headline, task.loss) == ("accuracy", "cross_entropy")
    assert [len(s) for s in (task.train, task.val, task.test)] == [384, 128, 388]
    assert task.train.x.shape == (384, 1, 16, 16)
    assert task.train.x.min() >= 0
    assert task.train.x.max() <= 1
    assert task.classes == 10
    np.testing.assert_array_equal(task.train.target[:, 0], task.train.truth)
    for split in (task.train, task.val, task.test):
        assert np.bincount(split.truth, minlength=10).min() >= 5


def test_the_task_repeats_with_its_seed(task: DigitsTask) -> None:
    np.testing.assert_array_equal(digits_task().test.x, task.test.x)
    assert not np.array_equal(digits_task(1).test.x, task.test.x)


def test_no_image_is_in_two_splits_or_domains() -> None:
    """Drawn without turn, noise or light, pictures tell their images: none occurs twice."""
    still = {
        name: DigitsDomain(name, (0, 0), (1, 1), (0, 0), (0, 0), (1, 1), (0, 0), (0, 0)) for name in ("source", "t")
    }
    source, target = (digits_task(n_train=600, n_val=100, n_test=100, domain=d) for d in still.values())
    seen = [s.x.tobytes() for t in (source, target) for split in (t.train, t.val, t.test) for s in [split]]
    pictures = [row.tobytes() for t in (source, target) for s in (t.train, t.val, t.test) for row in s.x]
    assert len(seen) == 6
    assert len(set(pictures)) == len(pictures)
    assert len(pool(True)[0]) + len(pool(False)[0]) == 1797


def test_drawing_by_loops() -> None:
    """A turned, zoomed, moved digit: each pixel looks up where it came from."""
    images = pool(False)[0][:2]
    rng = np.random.default_rng(3)
    domain = DigitsDomain("d", (30, 30), (0.8, 0.8), (1, 1), (0.9, 0.9), (0.2, 0.2), (0, 0), (0, 0))
    got = draw(images, domain, rng)
    angle = math.radians(30)
    for i in range(2):
        for r in range(16):
            for c in range(16):
                # metres are pixels of 8×8, from the middle, rows downwards
                y, x = (r + 0.5 - 8 - 1) / 0.8 / 2, (c + 0.5 - 8 - 1) / 0.8 / 2
                v = math.cos(angle) * y + math.sin(angle) * x + 4 - 0.5
                u = math.cos(angle) * x - math.sin(angle) * y + 4 - 0.5
                cover = 0.0
                for a in range(8):
                    for b in range(8):
                        cover += max(0, 1 - abs(a - v)) * max(0, 1 - abs(b - u)) * float(images[i, a, b])
                assert got[i, 0, r, c] == pytest.approx(0.9 - 0.7 * cover, abs=1e-5)


def test_a_positive_turn_is_anticlockwise() -> None:
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 3:5, 6] = 1  # to the right of the middle
    plain = {"zoom": (1, 1), "move": (0, 0), "paper": (0, 0), "ink": (1, 1), "light": (0, 0), "noise": (0, 0)}
    up = draw(image, DigitsDomain("d", (90, 90), **plain), np.random.default_rng(0))[0, 0]  # type: ignore[arg-type]
    assert up[:6].sum() > 0.9 * up.sum()


def test_light_and_noise() -> None:
    image = np.zeros((500, 8, 8), np.float32)
    flat = {"turn": (0, 0), "zoom": (1, 1), "move": (0, 0), "paper": (0.5, 0.5), "ink": (0, 0)}
    noisy = draw(image, DigitsDomain("n", **flat, light=(0, 0), noise=(0.1, 0.1)), np.random.default_rng(0))  # type: ignore[arg-type]
    assert noisy.std() == pytest.approx(0.1, rel=0.02)
    lit = draw(image, DigitsDomain("l", **flat, light=(0.4, 0.4), noise=(0, 0)), np.random.default_rng(0))  # type: ignore[arg-type]
    assert lit.mean() == pytest.approx(0.5, abs=1e-6)
    spread = lit.max(axis=(1, 2, 3)) - lit.min(axis=(1, 2, 3))
    assert spread.min() > 0.36
    assert spread.max() < 0.4 * math.sqrt(2)


def test_augmentation_moves_by_a_pixel(task: DigitsTask) -> None:
    x, target = task.train.x[:40].copy(), task.train.target[:40].copy()
    seen, labels = task.augment(x, target, np.random.default_rng(0))
    assert seen.shape == x.shape
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(labels, target)
    shifts = set()
    for one, other in zip(x, seen, strict=True):
        at = [
            (r, c)
            for r in (-1, 0, 1)
            for c in (-1, 0, 1)
            if np.array_equal(other[0, 1:-1, 1:-1], one[0, 1 + r : 15 + r, 1 + c : 15 + c])
        ]
        assert len(at) == 1
        shifts.add(at[0])
    assert len(shifts) == 9


def test_baselines_find_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    ways = rng.normal(size=(4, 10))

    def split(n: int) -> Split:
        x = rng.normal(size=(n, 10)).astype(np.float32)
        classes = (x @ ways.T).argmax(axis=1)
        return Split(x, classes[:, None], classes)

    made = ClassificationTask("made", split(400), split(100), split(200), digits.SETTINGS)
    rows = made.baselines()
    assert list(rows) == ["majority", "nearest mean", "linear"]
    assert rows["linear"]["accuracy"] > 0.85
    assert rows["nearest mean"]["accuracy"] > 0.7
    most = np.bincount(made.train.truth).argmax()
    assert rows["majority"]["accuracy"] == pytest.approx((made.test.truth == most).mean())
    assert rows["majority"]["cross_entropy"] == pytest.approx(math.log(4), abs=0.15)


def test_baselines_survive_a_class_that_training_lacks(task: DigitsTask) -> None:
    few = task.train.truth < 7
    made = dataclasses.replace(task, train=Split(task.train.x[few], task.train.target[few], task.train.truth[few]))
    for name, row in made.baselines().items():
        assert all(math.isfinite(v) for v in row.values()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "tagret"}, "domain='tagret' is unknown; did you mean 'target'"),
        ({"n_val": 0}, "n_val=0 must be an integer of at least 1"),
        ({"seed": -1}, "seed=-1 must be an integer of at least 0"),
        ({"n_train": 900}, r"n_train \+ n_val \+ n_test = 1416, but there are 900 images"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        digits_task(**arguments)


def test_bad_domains() -> None:
    with pytest.raises(DataError, match=r"turn=\(3, 1\) must be finite, the lower first"):
        dataclasses.replace(TARGET, turn=(3, 1))
    with pytest.raises(DataError, match=r"zoom=\(0, 1\) must not be negative \(zoom: nor 0\)"):
        dataclasses.replace(TARGET, zoom=(0, 1))


def test_bad_classification_tasks(task: DigitsTask) -> None:
    s = task.train
    with pytest.raises(DataError, match=r"train has targets \(384, 1\) and truth \(384,\) of dtype=float32"):
        dataclasses.replace(task, train=Split(s.x, s.target, s.truth.astype(float)))
    with pytest.raises(DataError, match="train has targets that are not its classes"):
        dataclasses.replace(task, train=Split(s.x, s.target[::-1], s.truth))


def test_scikit_learn_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    digits._images.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn, which is not installed; pip install 'sparseplan\[digi"):
        digits_task()


def test_the_pretrained_network_knows_its_source() -> None:
    task = digits_task(n_train=100, n_val=50, n_test=97, domain=SOURCE)
    found = task.metrics(predict(mobilenetv2_digits(), pretrained(mobilenetv2_digits()), task.test.x), task.test)
    assert found["accuracy"] > 0.95


def test_adapting_helps_and_tells_sets_apart(task: DigitsTask) -> None:
    """A glimpse of what benchmarks/digits_adaptation.py measures: a quarter of the epochs, one seed."""
    network = mobilenetv2_digits()
    start = pretrained(network)
    settings = dataclasses.replace(task.settings, epochs=4)
    accuracy = {}
    for prefixes in ((), ("classifier.",), ("block4.", "block5.")):
        update = {p: 1.0 for p in network.parameters if p.startswith(prefixes)} if prefixes else {}
        parameters: Any = start
        if update:
            x, target = task.train.x, task.train.target
            parameters = train(network, start, update, x, target, settings, augment=task.augment).parameters
        found = task.metrics(predict(network, parameters, task.test.x), task.test)
        accuracy[prefixes[:1]] = found["accuracy"]
    assert accuracy[()] < 0.2, "the shift breaks the network"
    assert accuracy[("classifier.",)] > accuracy[()]
    assert accuracy[("block4.",)] > accuracy[("classifier.",)] + 0.3
