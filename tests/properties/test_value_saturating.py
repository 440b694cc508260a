"""On gains that saturate, the saturating model predicts unseen sets no worse than the sum does."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.value.model import Observation, fit_additive, fit_saturating, held_out

PARTS = st.floats(0.05, 0.95)


@given(st.lists(PARTS, min_size=3, max_size=5), st.floats(0.01, 100))
def test_saturating_is_never_worse_on_saturating_gains(parts: list[float], ceiling: float) -> None:
    """Unit u takes ``parts[u]`` of what the others left; singles and all together are seen."""
    names = [f"u{i}" for i in range(len(parts))]
    gains = {
        frozenset(s): ceiling * (1 - math.prod(1 - parts[names.index(u)] for u in s))
        for k in range(1, len(names) + 1)
        for s in itertools.combinations(names, k)
    }
    seen = [Observation(s, g) for s, g in gains.items() if len(s) in (1, len(names))]
    unseen = [Observation(s, g) for s, g in gains.items() if 1 < len(s) < len(names)]
    additive, saturating = held_out(fit_additive, seen, unseen), held_out(fit_saturating, seen, unseen)
    assert saturating.mae <= additive.mae + 1e-6 * ceiling
    # and it is near: every error is within a few of the model error that it allows for
    assert saturating.mae <= 0.03 * ceiling
