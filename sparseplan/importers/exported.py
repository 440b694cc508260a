"""PyTorch modules, through ``torch.export``."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseplan.errors import MissingExtraError, NetworkError, SparseplanError
from sparseplan.importers.draft import Draft, Imported

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

#: longest part of another library's message that is repeated
_QUOTE = 400


def read_module(
    module: Module,
    example_input: Any,
    *,
    name: str | None = None,
    batch_axis: int | None = 0,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """The network of a PyTorch module in eval mode, read for one sample.

    Args:
        module: is left as it was; its parameters keep their names and, save a leading extent of 1, their shapes.
        example_input: a tensor, or a tuple of tensors, with a batch axis; of several samples the first is used.
        batch_axis: where it is (1 for sequences first); None where the example is one sample without such an axis.
        name: of the network (default: the module's class).
        outputs: names of the network's outputs, the loss's first, by key, position or field of what the module
            returns ("logits", "heads.0", "1"), or any tensor of the network (default: all that it returns).

    Raises:
        NetworkError: the module cannot be exported, or does what no network can say; names the node, its kind,
            and what would do.
        MissingExtraError: PyTorch is not installed.
    """
    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise NetworkError(f"module={type(module).__name__} must be a torch.nn.Module")
    label = name or type(module).__name__
    device = next((str(t.device) for t in (*module.parameters(), *module.buffers()) if t.device.type != "cpu"), None)
    if device is not None:
        raise NetworkError(f"module {label!r} is on device {device}; move it to the CPU, by module.cpu()")
    draft = Draft(label)
    inputs = _first_sample(example_input, draft, batch_axis)
    program = _export(module, inputs, draft, label)
    try:
        return _read(module, program, draft, outputs)
    except NetworkError as error:
        raise type(error)(f"module {label!r}: {error}") from None


def from_reference(reference: str, outputs: Sequence[str] | None = None) -> Imported:
    """The network of ``package.module:function``: the function, called without arguments, returns
    ``(module, example_input)``. This runs the code of that module, which is looked for in the current folder, too.
    ``outputs``: as of ``read_module``.

    Raises:
        NetworkError: it cannot be imported or called, or returns something else; or as ``read_module``.
        MissingExtraError: PyTorch is not installed.
    """
    place, colon, attribute = reference.partition(":")
    if not (colon and place and attribute):
        raise NetworkError(f"reference={reference!r} must be package.module:function")
    _torch()
    found: Any = _import(place, reference)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NetworkError(f"reference={reference!r}: {place!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise NetworkError(f"reference={reference!r}: {attribute!r} is no function; give one that returns "
                           "(module, example_input)")  # fmt: skip
    try:
        pair = found()
    except Exception as error:
        raise NetworkError(f"reference={reference!r}: the function raises {_quote(error)}") from error
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise NetworkError(f"reference={reference!r}: the function returns {type(pair).__name__}, expected the tuple "
                           "(module, example_input)")  # fmt: skip
    return read_module(pair[0], pair[1], outputs=outputs)


def _import(place: str, reference: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except SparseplanError:
        raise
    except Exception as error:
        raise NetworkError(
            f"reference={reference!r}: module {place!r} cannot be imported: {_quote(error)}; "
            "is it in the current folder or installed?"
        ) from error
    finally:
        if added:
            sys.path.remove(here)


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MissingExtraError(f"PyTorch cannot be imported ({error}); install sparseplan[torch]") from None


def _quote(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_QUOTE]}{'…' if len(text) > _QUOTE else ''}"


def _first_sample(given: Any, draft: Draft, batch_axis: int | None) -> tuple[Any, ...]:
    """Inputs of one sample."""
    torch = _torch()
    if isinstance(given, torch.Tensor):
        given = (given,)
    if not isinstance(given, (tuple, list)) or not given or not all(isinstance(t, torch.Tensor) for t in given):
        raise NetworkError(f"example_input={type(given).__name__} must be a tensor or a tuple of tensors")
    for i, t in enumerate(given):
        if t.dim() == 0 or 0 in t.shape:
            raise NetworkError(
                f"example_input[{i}] has shape {tuple(t.shape)}; give the batch axis and at least one sample"
            )
    kept = list(given)
    if batch_axis is not None:
        axis = batch_axis
        if not 0 <= axis < given[0].dim():
            raise NetworkError(f"batch_axis={axis!r} is no axis of example_input[0], shape {tuple(given[0].shape)}")
        samples = given[0].shape[axis]
        if samples > 1:
            draft.note(f"of {samples} samples of the example input (axis {axis}) the first is read")
        # contiguous, so that views of it are views
        kept = [t.narrow(axis, 0, 1) if t.dim() > axis and t.shape[axis] == samples else t for t in given]
    return tuple(t.detach().to("cpu").contiguous() for t in kept)


@contextmanager
def _evaluating(module: Module) -> Iterator[None]:
    """Eval mode, undone whatever happens; without a fast path that hides layers in one op."""
    torch = _torch()
    flags = [(m, m.training) for m in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, flag in flags:
            m.training = flag


def _export(module: Module, inputs: tuple[Any, ...], draft: Draft, label: str) -> ExportedProgram:
    torch = _torch()
    from sparseplan.importers.aten import RULES

    try:
        with _evaluating(module), torch.enable_grad():
            program = torch.export.export(module, inputs, strict=False)
            if any("set_grad_enabled" in str(node.target) for node in program.graph.nodes):
                draft.note("no_grad is read as nothing: gradients that PyTorch ends there pass on")
            # take apart only what has no rule
            table = {
                op: how
                for op, how in torch.export.default_decompositions().items()
                if str(op).split("::")[-1].split(".")[-2 if "." in str(op) else -1] not in RULES
            }
            return program.run_decompositions(table)
    except Exception as error:
        if "DataDependent" in type(error).__name__ or "data-dependent" in str(error):
            raise NetworkError(
                f"module {label!r}: what it does, or a shape in it, depends on data, and a plan is of one way alone; "
                f"give the module one way. torch.export says: {_quote(error)}"
            ) from error
        raise NetworkError(
            f"module {label!r}: torch.export cannot read it: {_quote(error)}; does the example input fit the module?"
        ) from error


def _leaves(module: Module) -> frozenset[str]:
    """Paths of modules without modules inside."""
    return frozenset(path for path, m in module.named_modules() if path and not any(m.children()))


def _read(module: Module, program: ExportedProgram, draft: Draft, outputs: Sequence[str] | None) -> Imported:
    from sparseplan.importers.aten.walk import Walk
    from sparseplan.importers.outputs import named_outputs

    signature = program.graph_signature
    called = _first_names(module)
    named = signature.inputs_to_parameters.items()
    parameters = {p: (called.get(name, name), program.state_dict[name]) for p, name in named}
    buffers = {p: (name, _buffer(program, name)) for p, name in signature.inputs_to_buffers.items()}
    lifted = {p: (name, program.constants[name]) for p, name in signature.inputs_to_lifted_tensor_constants.items()}
    draft.reserve(name for name, _ in [*parameters.values(), *buffers.values()])
    if signature.buffers_to_mutate:
        names = sorted(set(signature.buffers_to_mutate.values()))
        draft.note(f"the module writes to its buffers {names}; the network reads them as they are")
    walk = Walk(draft, parameters, {**buffers, **lifted}, _leaves(module))
    for node in program.graph.nodes:
        if node.op == "placeholder":
            walk.placeholder(node)
        elif node.op == "call_function":
            walk.call(node)
        elif node.op not in ("output", "get_attr"):
            raise NetworkError(f"node {node.name!r} is a {node.op}, which no exported graph has")
    found = draft.finish(*named_outputs(program, walk.values, draft, outputs))
    if found.layouts:
        turned = f"axes of parameters {list(found.layouts)} are moved; exporters.pytorch takes them as layouts"
        found = replace(found, notes=(*found.notes, turned))
    return found


def _first_names(module: Module) -> dict[str, str]:
    """Every name of a parameter to its first, by which ``module.named_parameters()`` knows it."""
    first: dict[int, str] = {}
    return {n: first.setdefault(id(p), n) for n, p in module.named_parameters(remove_duplicate=False)}


def _buffer(program: ExportedProgram, name: str) -> Any:
    return program.state_dict[name] if name in program.state_dict else program.constants[name]
