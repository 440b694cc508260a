"""Building networks op by op, and their parameters: drawn at random, or checked from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.errors import DataError, NetworkError, OpError, near
from sparseplan.network import Attr, Network, Op, Tensor
from sparseplan.ops.base import infos, op_def, resolve
from sparseplan.scalars import plain_arguments

FloatArray = npt.NDArray[np.float32]


class NetworkBuilder:
    """Collects ops in execution order; shapes follow from the inputs.

    Methods return the name of the tensor they make, to be given to later ones. An op's output is
    named ``<op>.out``, its parameters ``<op>.weight`` and so on.

    >>> net = NetworkBuilder("tiny")
    >>> x = net.input("image", (3, 8, 8))
    >>> x = net.leaky_relu(net.conv(x, 4, kernel=3, padding=1), slope=0.125)
    >>> net.build([x]).parameters
    ('conv0.weight', 'conv0.bias')
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tensors: dict[str, Tensor] = {}
        self._ops: dict[str, Op] = {}

    @plain_arguments
    def input(self, name: str, shape: Sequence[int], dtype: str | None = None) -> str:
        """Declare a network input of ``shape`` (per sample); ``dtype="i32"`` for one that holds integers."""
        self._add(Tensor(name, tuple(shape), "input", dtype))
        return name

    @plain_arguments
    def op(
        self,
        kind: str,
        inputs: str | Sequence[str],
        name: str | None = None,
        params: Mapping[str, str] | Sequence[str] | None = None,
        **attrs: Attr,
    ) -> str:
        """Append an op of any kind.

        Args:
            name: of the op; by default the kind and the first free number.
            params: parameter slots to give it, named ``<op>.<slot>`` or as the mapping says (which
                may name parameters of earlier ops: both then use them); by default all that the
                kind can have.
            attrs: as the kind's definition names them.

        Raises:
            NetworkError: a name is taken or unknown.
            OpError: attributes or shapes do not fit the kind.
        """
        definition = op_def(kind)
        name = self._free_name(kind) if name is None else name
        where = f"network {self._name!r}: op {name!r}"
        if name in self._ops:
            raise NetworkError(f"{where}: the name is taken; choose another")
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        for t in inputs:
            if t not in self._tensors:
                raise NetworkError(f"{where} reads tensor {t!r}, which does not exist{near(t, self._tensors)}")
        shapes = tuple(self._tensors[t].shape for t in inputs)
        output, slots = _shapes(where, kind, shapes, attrs)
        if params is None:
            chosen = {slot: f"{name}.{slot}" for slot in slots}
        elif isinstance(params, Mapping):
            chosen = dict(params)
        else:
            chosen = {slot: f"{name}.{slot}" for slot in params}
        made = [Tensor(f"{name}.out", output)]
        for slot, tensor in chosen.items():
            if slot not in slots:
                raise OpError(f"{where}: parameter slot {slot!r} is unknown to {kind}{near(slot, slots)}")
            known = self._tensors.get(tensor)
            if known is None or known.role != "parameter":
                made.append(Tensor(tensor, slots[slot], "parameter"))
            elif known.shape != slots[slot]:
                raise OpError(f"{where}: {slot} {tensor!r} has shape {known.shape}, expected {slots[slot]}")
        for slot in sorted(definition.required_params(definition.complete_attrs(attrs))):
            if slot not in chosen:
                raise OpError(f"{where}: parameter {slot!r} of shape {slots[slot]} is missing; {kind} needs it")
        for tensor_made in made:
            self._add(tensor_made)
        self._ops[name] = Op(name, kind, inputs, f"{name}.out", chosen, attrs)
        return f"{name}.out"

    def conv(
        self,
        x: str,
        out_channels: int,
        kernel: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        name: str | None = None,
        bias: bool = True,
        **attrs: Attr,
    ) -> str:
        """A convolution; ``attrs`` may give ``dilation`` and ``groups``."""
        given = {"out_channels": out_channels, "kernel": kernel, "stride": stride, "padding": padding, **attrs}
        return self.op("conv", x, name, ("weight", "bias") if bias else ("weight",), **given)

    def conv_transpose(
        self,
        x: str,
        out_channels: int,
        kernel: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        name: str | None = None,
        bias: bool = True,
        **attrs: Attr,
    ) -> str:
        """A transposed convolution; ``attrs`` may give ``output_padding``, ``dilation``, ``groups``."""
        given = {"out_channels": out_channels, "kernel": kernel, "stride": stride, "padding": padding, **attrs}
        return self.op("conv_transpose", x, name, ("weight", "bias") if bias else ("weight",), **given)

    def linear(self, x: str, out_features: int, name: str | None = None, bias: bool = True) -> str:
        """A fully connected layer on the last axis."""
        return self.op("linear", x, name, ("weight", "bias") if bias else ("weight",), out_features=out_features)

    def relu(self, x: str, name: str | None = None) -> str:
        """``max(x, 0)``."""
        return self.op("relu", x, name)

    def leaky_relu(self, x: str, slope: float, name: str | None = None) -> str:
        """``x`` where positive, else ``slope * x``."""
        return self.op("leaky_relu", x, name, slope=slope)

    def affine(self, x: str, name: str | None = None) -> str:
        """A scale and an offset a channel: a frozen batch-norm."""
        return self.op("affine", x, name)

    def add(self, inputs: Sequence[str], name: str | None = None) -> str:
        """The sum of tensors of one shape."""
        return self.op("add", inputs, name)

    def concat(self, inputs: Sequence[str], axis: int = 0, name: str | None = None) -> str:
        """Tensors side by side along ``axis`` (0: channels)."""
        return self.op("concat", inputs, name, axis=axis)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape (per sample) of a tensor made so far."""
        if tensor not in self._tensors:
            raise NetworkError(f"network {self._name!r}: tensor {tensor!r} does not exist{near(tensor, self._tensors)}")
        return self._tensors[tensor].shape

    def parts(self) -> tuple[str, tuple[Tensor, ...], tuple[Op, ...]]:
        """Name, tensors and ops so far, for those who leave out what no output needs."""
        return self._name, tuple(self._tensors.values()), tuple(self._ops.values())

    def build(self, outputs: str | Sequence[str]) -> Network:
        """The network, checked as a whole. Raises NetworkError, OpError."""
        outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        network = Network(self._name, tuple(self._tensors.values()), tuple(self._ops.values()), outputs)
        infos(network)
        return network

    def _free_name(self, kind: str) -> str:
        n = sum(op.kind == kind for op in self._ops.values())
        while f"{kind}{n}" in self._ops:
            n += 1
        return f"{kind}{n}"

    def _add(self, tensor: Tensor) -> None:
        if tensor.name in self._tensors:
            raise NetworkError(f"network {self._name!r}: tensor name {tensor.name!r} is taken; choose another")
        self._tensors[tensor.name] = tensor


def _shapes(
    where: str, kind: str, inputs: tuple[tuple[int, ...], ...], attrs: Mapping[str, Attr]
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Output shape and parameter shapes of an op that is yet to be placed."""
    definition = op_def(kind)
    low, high = definition.arity
    try:
        if len(inputs) < low or (high is not None and len(inputs) > high):
            wanted = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            raise OpError(f"{len(inputs)} inputs given, {kind} takes {wanted}")
        full = definition.complete_attrs(attrs)
        output = definition.output_shape(full, inputs)
        if any(n < 1 for n in output):
            raise OpError(f"inputs {list(inputs)} are too small: the output would have shape {output}")
        return output, definition.param_shapes(full, inputs)
    except OpError as error:
        raise OpError(f"{where} ({kind}): {error}") from None


@plain_arguments
def init_parameters(network: Network, seed: int = 0) -> dict[str, FloatArray]:
    """Every parameter of a network, drawn as PyTorch's layers do by default.

    Weights and biases of convolutions and linear layers are uniform within ``±1 / sqrt(fan-in)``
    (Kaiming-uniform with ``a = sqrt(5)``); the weight of an affine or a norm is 1, its bias 0, a
    batch-norm's mean 0 and variance 1. Fan-in of a transposed convolution counts axis 1 of its
    weight, as PyTorch does. Kinds with an ``init`` of their own draw by that.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, FloatArray] = {}
    for op in network.ops:
        info = resolve(network, op)
        weight = info.params.get("weight")
        bound = 1 / math.sqrt(math.prod(weight[1:])) if weight is not None and len(weight) > 1 else 0.0
        for slot, name in op.params.items():
            if name in arrays:
                continue  # an earlier op uses it, too
            shape = info.params[slot]
            own = op_def(op.kind).init(slot, shape, rng)
            if own is not None:
                arrays[name] = own
            elif bound:
                arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
            else:
                arrays[name] = np.full(shape, 1 if slot == "weight" else 0, np.float32)
    return arrays


def check_parameters(network: Network, arrays: Mapping[str, Any]) -> None:
    """Whether ``arrays`` are exactly the network's parameters: names, shapes, finite numbers.

    Raises:
        DataError: naming the first that is missing, unknown (with near matches), of a wrong shape,
            not numeric, or NaN or infinite.
    """
    where = f"parameters of network {network.name!r}"
    unknown = [name for name in arrays if name not in network.owner]
    missing = [name for name in network.parameters if name not in arrays]
    if unknown:
        raise DataError(f"{where}: {unknown[0]!r} is unknown{near(str(unknown[0]), missing or network.parameters)}")
    if missing:
        raise DataError(
            f"{where}: {missing[0]!r} of shape {network.tensor[missing[0]].shape} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    for name in network.parameters:
        array = np.asarray(arrays[name])
        shape = network.tensor[name].shape
        if array.shape != shape:
            raise DataError(f"{where}: {name!r} has shape {array.shape}, expected {shape}")
        try:
            finite = np.isfinite(array.astype(np.float64))
        except (TypeError, ValueError):
            raise DataError(f"{where}: {name!r} has dtype {array.dtype}, expected numbers") from None
        if not finite.all():
            at = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise DataError(f"{where}: {name!r} holds {array[at]} at {at}; all entries must be finite")
