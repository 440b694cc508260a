"""Specs and networks for the tests of the JSON spec: one documented example, and any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import NetworkError
from sparseplan.network import Network


def tiny() -> dict[str, Any]:
    """The example in the importer's documentation, new at each call."""
    return {
        "sparseplan": "network",
        "version": 1,
        "name": "tiny",
        "inputs": {"image": [3, 16, 16]},
        "ops": [
            {
                "name": "conv",
                "kind": "conv",
                "inputs": ["image"],
                "output": "conv.out",
                "params": ["weight", "bias"],
                "attrs": {"out_channels": 8, "kernel": 3, "padding": 1},
            },
            {"name": "act", "kind": "relu", "inputs": ["conv.out"], "output": "act.out"},
        ],
        "outputs": ["act.out"],
    }


#: kind, number of inputs, attributes to draw
_MOVES: list[tuple[str, int, dict[str, st.SearchStrategy[Any]]]] = [
    (
        "conv",
        1,
        {
            "out_channels": st.integers(1, 4),
            "kernel": st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)),
            "padding": st.integers(0, 1),
            "stride": st.integers(1, 2),
        },
    ),
    ("conv_transpose", 1, {"out_channels": st.integers(1, 3), "kernel": st.just(2), "stride": st.just(2)}),
    ("leaky_relu", 1, {"slope": st.floats(0.01, 0.9)}),
    ("relu6", 1, {}),
    ("affine", 1, {}),
    ("max_pool", 1, {"kernel": st.just(2)}),
    ("upsample", 1, {"scale": st.just(2), "mode": st.sampled_from(["nearest", "bilinear"])}),
    ("flatten", 1, {}),
    ("linear", 1, {"out_features": st.integers(1, 5)}),
    ("add", 2, {}),
    ("concat", 2, {}),
]


@st.composite
def networks(draw: st.DrawFn, most: int = 6) -> Network:
    """Any network of up to ``most`` ops: chains, branches, joins; what nothing reads is an output."""
    net = NetworkBuilder(draw(st.sampled_from(["n", "décodeur 0"])))
    made = [net.input("image", draw(st.tuples(st.integers(1, 3), st.integers(2, 8), st.integers(2, 8))))]
    read: set[str] = set()

    def append(kind: str, inputs: Sequence[str], **attrs: Any) -> None:
        try:
            made.append(net.op(kind, inputs, **attrs))
        except NetworkError:
            return  # such an op does not fit here: a smaller network then
        read.update(inputs)

    append("relu", made[:1])
    for _ in range(draw(st.integers(0, most - 1))):
        kind, arity, attrs = draw(st.sampled_from(_MOVES))
        inputs = [draw(st.sampled_from(made[::-1])) for _ in range(arity)]
        append(kind, inputs, **{name: draw(values) for name, values in attrs.items()})
    return net.build([t for t in made if t not in read])
