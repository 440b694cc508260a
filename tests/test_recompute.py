"""Reruns and fetches make copies, each reader takes the latest, and nothing is made that nobody reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import small_u
from savings import graph_of, some_savings, with_savings

from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.recompute import NO_SAVINGS, Savings, apply, slots
from sparseplan.steps import Schedule, Step, TrainingOptions, UpdateSet
from sparseplan.testing import problems


def line(kind: str = "sigmoid") -> Schedule:
    """image (64 B) -> a -> (128 B) -> s -> (128 B) -> b -> (64 B); weights of 8 B each; all updated."""
    net = NetworkBuilder("line")
    t = net.conv(net.input("image", (1, 4, 4)), 2, 1, name="a", bias=False)
    t = net.conv(net.op(kind, (t,), name="s"), 1, 1, name="b", bias=False)
    network = net.build(t)
    return differentiate(network, UpdateSet.all(network), TrainingOptions(dtype="fp32"))


def reruns(*pairs: tuple[str, str]) -> Savings:
    return Savings(frozenset(pairs))


def fetches(*pairs: tuple[str, str]) -> Savings:
    return Savings(fetches=frozenset(pairs))


def step(schedule: Schedule, name: str) -> Step:
    return next(s for s in schedule.steps if s.name == name)


def names(schedule: Schedule, *kinds: str) -> list[str]:
    return [s.name for s in schedule.steps if s.kind in kinds]


def read_by(schedule: Schedule, name: str, tag: str) -> list[str]:
    return [s.value for a in step(schedule, name).reads if a.tag == tag for s in a.spans]


def live(schedule: Schedule) -> dict[str, int]:
    """Bytes of main memory by step."""
    return dict(zip((s.name for s in schedule.steps), analyse(schedule).at("L2"), strict=True))


def test_nothing_to_do_is_the_same_schedule() -> None:
    schedule = line()
    assert apply(schedule, NO_SAVINGS) is schedule


def test_a_rerun_makes_a_copy_that_later_readers_take() -> None:
    found = apply(line(), reruns(("a", "b.grad_weight"), ("s", "b.grad_weight")))
    order = [s.name for s in found.steps]
    at = order.index("b.grad_weight")
    assert order[at - 2 : at] == ["a.forward again", "s.forward again"]
    again = step(found, "s.forward again")
    assert (again.kind, again.op, again.target, again.macs) == ("recompute", "s", "y", step(found, "s.forward").macs)
    assert read_by(found, "a.forward again", "x0") == ["image"]
    assert read_by(found, "s.forward again", "x0") == ["a.out (2)"]
    assert again.inplace == (("s.out (2)", "a.out (2)"),)
    assert read_by(found, "b.forward", "x0") == ["s.out"]
    assert read_by(found, "b.grad_weight", "x0") == ["s.out (2)"] == read_by(found, "s.grad_x0", "y")
    assert found.values["s.out (2)"].tensor == "s.out"


def test_each_reader_takes_the_latest_run() -> None:
    found = apply(
        line(), reruns(("s", "s.grad_x0"), ("a", "s.grad_x0"), ("a", "b.grad_weight"), ("s", "b.grad_weight"))
    )
    assert names(found, "recompute") == [
        "a.forward again", "s.forward again", "a.forward again (2)", "s.forward again (2)"
    ]  # fmt: skip
    assert read_by(found, "b.grad_weight", "x0") == ["s.out (2)"]
    assert read_by(found, "s.forward again (2)", "x0") == ["a.out (3)"]
    assert read_by(found, "s.grad_x0", "y") == ["s.out (3)"]


def test_macs_of_what_runs_again_are_told_apart() -> None:
    base, found = line(), apply(line(), reruns(("a", "b.grad_weight"), ("s", "b.grad_weight")))
    assert found.macs == {**base.macs, "recompute": step(base, "a.forward").macs + step(base, "s.forward").macs}


@pytest.mark.parametrize(
    ("useless", "kept"),
    [
        (reruns(("b", "b.grad_weight")), []),  # nobody reads the output again
        (reruns(("a", "b.grad_weight")), []),  # s.out was kept, so a.out is not read
        (reruns(("s", "a.grad_weight"), ("a", "s.grad_x0")), []),  # made after its last reader
        (reruns(("a", "a.grad_weight"), ("s", "b.grad_x0")), ["s.forward again"]),  # b.grad_weight came before
    ],
)
def test_what_nobody_reads_is_left_out(useless: Savings, kept: list[str]) -> None:
    found = apply(line(), useless)
    assert names(found, "recompute") == kept
    if not kept:
        assert found == line()


def test_a_page_that_never_comes_back_is_not_written() -> None:
    assert apply(line(), fetches(("s.out", "a.grad_weight"))) == line()


def test_pages_go_out_once_made_and_come_back_as_copies() -> None:
    found = apply(line(), fetches(("s.out", "b.grad_weight"), ("s.out", "s.grad_x0"), ("image", "a.grad_weight")))
    order = [s.name for s in found.steps]
    assert order[0] == "page out image"
    assert order[order.index("s.forward") + 1] == "page out s.out"
    assert names(found, "page_out") == ["page out image", "page out s.out"]
    assert names(found, "page_in") == ["page in s.out", "page in s.out (2)", "page in image"]
    assert read_by(found, "page in s.out (2)", "x0") == ["s.out @L3"]
    assert found.values["s.out @L3"].level == "L3"
    assert read_by(found, "b.grad_weight", "x0") == ["s.out (2)"]
    assert read_by(found, "s.grad_x0", "y") == ["s.out (3)"]
    assert read_by(found, "a.grad_weight", "x0") == ["image (2)"]


def test_an_auxiliary_is_made_by_the_latest_run_before_its_reader() -> None:
    base = line("relu")
    assert [a.tag for a in step(base, "s.grad_x0").reads] == ["dy", "mask"]
    assert [a.tag for a in step(base, "s.forward").writes] == ["y", "mask"]
    found = apply(base, reruns(("a", "s.grad_x0"), ("s", "s.grad_x0")))
    assert [a.tag for a in step(found, "s.forward").writes] == ["y"]
    assert [a.tag for a in step(found, "s.forward again").writes] == ["y", "mask"]
    assert read_by(found, "s.grad_x0", "mask") == ["mask(s) (2)"]
    assert "mask(s)" not in found.values


def test_an_auxiliary_may_be_made_by_a_rerun_for_another_reader() -> None:
    """join reads tap's output again; the mask that tap's own backward reads comes with it."""
    base = differentiate(net := small_u(), UpdateSet.all(net), TrainingOptions())
    found = apply(base, reruns(("tap", "join.grad_weight"), ("stem", "join.grad_weight")))
    assert names(found, "recompute") == ["stem.forward again", "tap.forward again"]
    assert [a.tag for a in step(found, "tap.forward").writes] == ["y"]
    assert [a.tag for a in step(found, "tap.forward again").writes] == ["y", "mask"]
    assert read_by(found, "join.grad_weight", "x0") == ["tap.out (2)", "up.out"]
    assert read_by(found, "tap.grad_x0", "mask") == ["mask(tap) (2)"]


# -- bytes by hand ----------------------------------------------------------------------------------
def test_bytes_of_a_line() -> None:
    """Weights 16; image 64, a.out = s.out 128, b.out = its gradient = target 64."""
    at = live(line())
    assert at["loss"] == 16 + 64 + 128 + 64 + 64  # image, s.out, gradient over the output, target
    assert at["b.grad_weight"] == 16 + 64 + 128 + 64 + 8
    assert at["b.grad_x0"] == 16 + 64 + 128 + 64 + 8 + 128
    assert max(at.values()) == 408


def test_bytes_of_a_line_with_reruns() -> None:
    at = live(apply(line(), reruns(("a", "b.grad_weight"), ("s", "b.grad_weight"))))
    assert at["loss"] == 16 + 64 + 64 + 64  # s.out is gone
    assert at["a.forward again"] == 16 + 64 + 64 + 128  # image, gradient of b.out, a.out again
    assert at["s.forward again"] == 16 + 64 + 64 + 128  # in place
    assert at["b.grad_weight"] == 16 + 64 + 128 + 64 + 8
    assert max(at.values()) == 408


def test_bytes_of_a_line_that_runs_again_twice() -> None:
    pairs = [(op, at) for op in "as" for at in ("b.grad_weight", "s.grad_x0")]
    at = live(apply(line(), reruns(*pairs)))
    assert at["b.grad_x0"] == 16 + 64 + 64 + 8 + 128  # without s.out
    assert at["a.forward again (2)"] == 16 + 64 + 128 + 128  # image, gradient of s.out, a.out again
    assert at["s.grad_x0"] == 16 + 64 + 128 + 128  # in place
    assert max(at.values()) == 336


def test_bytes_of_a_line_with_pages() -> None:
    at = live(apply(line(), fetches(("s.out", "b.grad_weight"), ("image", "a.grad_weight"))))
    assert at["page out image"] == 16 + 64
    assert at["s.forward"] == at["page out s.out"] == 16 + 128  # the image is gone
    assert at["loss"] == 16 + 64 + 64
    assert at["page in s.out"] == 16 + 64 + 128
    assert at["page in image"] == 16 + 128 + 64
    memory = analyse(apply(line(), fetches(("s.out", "b.grad_weight"), ("image", "a.grad_weight"))))
    assert memory.peak("L3") == 64 + 128


# -- of any network ---------------------------------------------------------------------------------
@given(problem=problems(tight=False), data=st.data())
def test_reads_find_what_was_written(problem: Problem, data: st.DataObject) -> None:
    """In any schedule with savings each value is written before it is read, and each rerun's output is read."""
    problem = with_savings(problem)
    update = {p: data.draw(st.sampled_from(r), label=p) for p, r in problem.choices.items()}
    base = graph_of(problem).restrict(UpdateSet(update))
    found = apply(base, data.draw(some_savings(problem, base), label="savings"))
    arrived = {n for n, v in found.values.items() if v.persistent or v.role == "target" or n in problem.network.inputs}
    read = {s.value for x in found.steps for a in x.reads for s in a.spans}
    for x in found.steps:
        for a in x.reads:
            assert {s.value for s in a.spans} <= arrived, (x.name, a.tag)
        made = {s.value for a in x.writes for s in a.spans}
        if x.kind in ("recompute", "page_out", "page_in", "pack"):
            assert made & read, x.name
            assert not made & arrived, x.name  # a copy is a value of its own
        arrived |= made
    assert len({x.name for x in found.steps}) == len(found.steps)
    there = {x.name for x in base.steps}
    assert [x.name for x in found.steps if x.name in there] == [x.name for x in base.steps]


# -- errors -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("savings", "message"),
    [
        (reruns(("ghost", "b.grad_weight")), "op 'ghost' cannot run again: it has no forward step"),
        (reruns(("aa", "b.grad_weight")), "op 'aa' cannot run again: it has no forward step; did you mean 'a'?"),
        (reruns(("a", "b.forward")), "op 'a' cannot run again before 'b.forward': no such step behind the loss"),
        (reruns(("a", "loss")), "op 'a' cannot run again before 'loss': no such step behind the loss"),
        (fetches(("ghost", "b.grad_weight")), "tensor 'ghost' cannot be paged: it is no activation with bytes of its"),
        (fetches(("a.weight", "b.grad_weight")), "tensor 'a.weight' cannot be paged: it is no activation"),
        (fetches(("s.out", "b.forward")), "tensor 's.out' cannot be fetched before 'b.forward': no such step behind"),
    ],
)
def test_bad_savings(savings: Savings, message: str) -> None:
    with pytest.raises(ProblemError) as error:
        apply(line(), savings)
    assert message in str(error.value)


def test_adjoined_outputs_cannot_run_again() -> None:
    net = small_u()
    schedule = differentiate(net, UpdateSet.all(net), TrainingOptions(concat="adjoin"))
    with pytest.raises(ProblemError, match="op 'up' cannot run again: its output adjoins others; use concat='split'"):
        apply(schedule, reruns(("up", "join.grad_weight")))


def test_slots_lie_behind_the_loss() -> None:
    schedule = line()
    assert slots(schedule.steps) == list(range(4, len(schedule.steps)))
