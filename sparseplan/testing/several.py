"""Hypothesis strategies of networks with several outputs, and of problems with a loss on each."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st

from sparseplan.network import Network
from sparseplan.objective import Loss
from sparseplan.problem import Problem
from sparseplan.steps import TrainingOptions
from sparseplan.testing.peers import trainable
from sparseplan.testing.strategies import networks, options, problems


@st.composite
def several_outputs(draw: st.DrawFn, network: Network, most: int = 3) -> Network:
    """The network with some of its tensors as outputs: heads, what heads read, views and parts of one another."""
    made = [op.output for op in network.ops if network.tensor[op.output].role == "activation"]
    last = made[-4:]
    outputs = draw(
        st.lists(st.sampled_from(draw(st.sampled_from([last, made]))), min_size=1, max_size=most, unique=True)
    )
    wanted, ops = set(outputs), []
    for op in reversed(network.ops):
        if op.output in wanted:
            ops.append(op)
            wanted.update((*op.inputs, *op.params.values()))
    assume(any(t.role == "input" and t.name in wanted for t in network.tensors))
    tensors = tuple(t for t in network.tensors if t.name in wanted)
    return Network(network.name, tensors, tuple(reversed(ops)), tuple(outputs))


@st.composite
def joint_options(
    draw: st.DrawFn, network: Network, dtype: str | None = None, batch: int | None = None
) -> TrainingOptions:
    """Training options with losses on every output, on some of them two, of all sorts of weights."""
    losses = []
    for output in network.outputs:
        kinds = ["l1", "mse", "huber"] + ["cross_entropy"] * (len(network.tensor[output].shape) == 1)
        for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2, unique=True)):
            losses.append(Loss(output, kind, draw(st.sampled_from([1.0, 0.5, 0.1, 3.0]))))
    return replace(draw(options(None, dtype, batch)), loss="", losses=tuple(losses))


@st.composite
def joint_problems(
    draw: st.DrawFn, max_ops: int = 7, max_choices: int | None = None, tight: bool = True, batch: int | None = None
) -> Problem:
    """Planning problems with several losses on small networks with up to three outputs."""
    network = draw(several_outputs(draw(networks(max_ops=max_ops).filter(lambda n: bool(n.ops)))))
    setting = draw(joint_options(network, batch=batch))
    assume(trainable(network, setting))
    problem = draw(problems(network, setting, max_choices, tight))
    # a tight flash is another theorem's matter
    levels = tuple(replace(v, bytes=None) if v.name == "flash" else v for v in problem.device.levels)
    return replace(problem, device=replace(problem.device, levels=levels))
