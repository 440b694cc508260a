"""Which steps a training has, in which order, and what each is worth: small networks, told by hand."""

from __future__ import annotations

from sparseplan.autodiff import differentiate, trace
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network, Op, Tensor
from sparseplan.steps import Schedule, Step, TrainingOptions, UpdateSet


def line() -> Network:
    """(2, 4, 4) -> a (3 channels, 1 x 1) -> relu -> b (2 channels, 1 x 1)."""
    net = NetworkBuilder("line")
    t = net.relu(net.conv(net.input("image", (2, 4, 4)), 3, 1, name="a"), name="r")
    return net.build(net.conv(t, 2, 1, name="b"))


def of(network: Network, update: dict[str, float], picks: dict[str, str] | None = None, **options: object) -> Schedule:
    settings = TrainingOptions(**{"dtype": "fp32", **options})  # type: ignore[arg-type]
    return differentiate(network, UpdateSet(update), settings, picks)


def names(schedule: Schedule) -> list[str]:
    return [s.name for s in schedule.steps]


def step(schedule: Schedule, name: str) -> Step:
    return next(s for s in schedule.steps if s.name == name)


def test_gradients_come_in_the_order_in_which_they_can_go() -> None:
    """The bias first: its update need not wait. The weight is read by the input's gradient, so its update waits."""
    assert names(of(line(), dict.fromkeys(line().parameters, 1.0)))[3:] == [
        "loss",
        "b.grad_bias", "update b.bias", "b.grad_weight", "b.grad_x0", "update b.weight",
        "r.grad_x0",
        "a.grad_bias", "update a.bias", "a.grad_weight", "update a.weight",
    ]  # fmt: skip


def test_accumulated_gradients_are_updated_at_the_end() -> None:
    found = names(of(line(), dict.fromkeys(line().parameters, 1.0), gradients="accumulate"))
    assert set(found[-4:]) == {"update a.weight", "update a.bias", "update b.weight", "update b.bias"}
    assert not any(n.startswith("update") for n in found[:-4])


def test_a_parameter_of_two_slots_waits_for_both_readers() -> None:
    """One matrix is weight of a and of b: its update waits until b's input gradient, and then a's, have read it."""
    net = NetworkBuilder("shared")
    t = net.op("conv", net.input("image", (2, 4, 4)), "first", kernel=1, out_channels=2)
    for name in ("a", "b"):
        t = net.op("conv", t, name, {"weight": "w"}, kernel=1, out_channels=2)
    found = names(of(net.build(t), {"w": 1.0, "first.weight": 1.0}))
    assert found[found.index("loss") + 1 :] == [
        "b.grad_weight", "b.grad_x0", "a.grad_weight", "a.grad_x0", "update w", "first.grad_weight",
        "update first.weight",
    ]  # fmt: skip


def test_nothing_flows_above_what_is_updated() -> None:
    schedule = of(line(), {"b.bias": 1.0})
    assert names(schedule)[3:] == ["loss", "b.grad_bias", "update b.bias"]
    assert {v.tensor for v in schedule.values.values() if v.role == "gradient"} == {"b.out"}
    schedule = of(line(), {"a.bias": 1.0})
    assert names(schedule)[3:] == ["loss", "b.grad_x0", "r.grad_x0", "a.grad_bias", "update a.bias"]


def test_what_lies_between_is_conditional() -> None:
    """In the graph over all update sets the gradient of r.out exists where something of a is updated."""
    graph = trace(line(), TrainingOptions())
    into_b = next(s for s in graph.steps if s.name == "b.grad_x0")
    a = {p: graph.levels[p].atoms[0] for p in ("a.weight", "a.bias")}
    assert into_b.when == a["a.weight"] | a["a.bias"]


def test_no_gradient_of_what_lies_behind_a_wall() -> None:
    """a reaches the loss directly and through an op without a gradient: of what that makes, none is computed."""
    net = NetworkBuilder("wall")
    a = net.conv(net.input("image", (2, 4, 4)), 2, 1, name="a")
    t = net.op("opaque", a, "hidden", type="secret", shape=(2, 4, 4))
    network = net.build(net.add([a, t], name="sum"))
    schedule = of(network, {"a.weight": 1.0})
    assert "hidden.out" not in {v.tensor for v in schedule.values.values() if v.role == "gradient"}


def test_macs_are_those_of_the_whole_batch() -> None:
    """16 pixels, 2 channels in, 3 out: 96 MACs a sample."""
    for batch in (1, 3):
        schedule = of(line(), {"a.weight": 1.0}, batch=batch)
        assert step(schedule, "a.forward").macs == 96 * batch
        assert step(schedule, "a.grad_weight").macs == 96 * batch
        assert schedule.macs["forward"] == 2 * 96 * batch
    assert step(of(line(), {"a.bias": 1.0}), "a.grad_bias").macs == 0  # sums, no products


def test_of_a_fraction_its_share_of_macs() -> None:
    schedule = of(line(), {"b.weight": 0.5})
    # one of the three input channels: int(3 / 2)
    assert step(schedule, "b.grad_weight").macs == 96 // 3
    assert step(schedule, "b.grad_weight").keep == 1


def test_gradients_of_some_channels_take_their_share() -> None:
    """A convolution reads 1 + 3 channels side by side; only the one is trained upstream."""
    net = NetworkBuilder("sides")
    image = net.input("image", (2, 4, 4))
    one, three = net.conv(image, 1, 1, name="one"), net.conv(image, 3, 1, name="three")
    network = net.build(net.conv(net.concat([one, three], name="cat"), 2, 1, name="head"))
    whole = 16 * 4 * 2
    assert step(of(network, {"one.weight": 1.0}), "head.grad_x0").macs == whole // 4
    assert step(of(network, {"three.weight": 1.0}), "head.grad_x0").macs == 3 * whole // 4
    assert step(of(network, {"one.weight": 1.0, "three.weight": 1.0}), "head.grad_x0").macs == whole


def test_an_auxiliary_made_late_follows_the_last_reader_of_its_source() -> None:
    """r's mask may be made from its output once b's weight gradient has read that."""
    graph = trace(line(), TrainingOptions())
    pick = next(p for p in graph.picks if p.op == "r")
    late = next(o for o in pick.options if o.startswith("late") and o.endswith("from y"))
    schedule = of(line(), dict.fromkeys(line().parameters, 1.0), {"r": late})
    found = names(schedule)
    made = next(s.name for s in schedule.steps if s.kind == "aux")
    assert found.index("b.grad_weight") < found.index(made) < found.index("r.grad_x0")


def test_values_of_another_storage_are_not_overwritten() -> None:
    tensors = (
        Tensor("image", (2, 4, 4), "input"), Tensor("a.weight", (2, 2, 1, 1), "parameter"),
        Tensor("a.out", (2, 4, 4), "activation", "int8", 0.5), Tensor("r.out", (2, 4, 4), "activation"),
    )  # fmt: skip
    ops = (
        Op("a", "conv", ("image",), "a.out", {"weight": "a.weight"}, {"kernel": 1, "out_channels": 2}),
        Op("r", "relu", ("a.out",), "r.out"),
    )
    mixed = Network("mixed", tensors, ops, ("r.out",))
    assert step(of(mixed, {"a.weight": 1.0}), "r.forward").inplace == ()
    assert step(of(line(), {"a.weight": 1.0}), "r.forward").inplace == (("r.out", "a.out"),)


def test_a_fraction_includes_the_smaller_ones() -> None:
    graph = trace(line(), TrainingOptions(), {"b.weight": (0.34, 0.67, 1.0)})
    atoms = graph.levels["b.weight"].atoms
    assert len(atoms) == 3
    assert graph.chosen(UpdateSet({"b.weight": 0.67})) == atoms[0] | atoms[1]
    assert graph.chosen(UpdateSet({"b.weight": 1.0})) == sum(atoms)


def test_a_part_has_states_of_its_size_and_lives_in_main_memory() -> None:
    schedule = of(line(), {"b.weight": 0.67}, optimizer="adam", gradients="accumulate", frozen="flash")
    parts = [v for v in schedule.values.values() if v.tensor == "b.weight"]
    assert {(v.role, v.shape, v.bytes, v.level) for v in parts} == {
        ("parameter", (2, 3, 1, 1), 24, "L2"),
        ("accumulator", (2, 2, 1, 1), 16, "L2"),
        ("state", (2, 2, 1, 1), 16, "L2"),
    }
    assert sum(v.role == "state" for v in parts) == 2
    assert schedule.values["a.weight"].level == "flash"
