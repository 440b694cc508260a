"""Imported modules against PyTorch's autograd: outputs, and gradients of every parameter, each of them counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sparseplan.importers.draft import Imported
from sparseplan.run.trainer import gradients, predict
from sparseplan.testing.peers import trainable


def settle(module: nn.Module) -> nn.Module:
    """Running statistics that are not 0 and 1, in eval mode."""
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.data.uniform_(0.5, 1.5)
    return module.eval()


def arrays(found: Imported, x: Any) -> dict[str, Any]:
    """The example input as the network's inputs, with a batch axis of one."""
    given = x if isinstance(x, tuple) else (x,)
    net = found.network
    return {
        name: t.numpy().astype(np.int32 if t.dtype == torch.int64 else np.float32).reshape(1, *net.tensor[name].shape)
        for name, t in zip(net.inputs, given, strict=True)
    }


def compare(module: nn.Module, found: Imported, x: Any, frozen: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Outputs and gradients of the mean squared distance from a random target; returns the network's gradients.

    Every parameter that autograd gives a gradient has to be one that a plan may update, save those in ``frozen``,
    which have to be told and never updated.
    """
    net = found.network
    given = arrays(found, x)
    y = module(*(x if isinstance(x, tuple) else (x,)))
    y = y[0] if isinstance(y, tuple) else y
    shape = (1, *net.tensor[net.outputs[0]].shape)
    np.testing.assert_allclose(
        predict(net, found.weights, given).reshape(y.shape), y.detach().numpy(), rtol=2e-5, atol=2e-5
    )
    target = torch.randn(y.shape)
    F.mse_loss(y, target).backward()
    _, grads = gradients(net, found.weights, given, target.numpy().reshape(shape), "mse")
    able = set(trainable(net)) - set(found.fixed)
    wanted = {name for name, p in module.named_parameters() if p.grad is not None} - frozen
    assert wanted <= able, f"parameters {sorted(wanted - able)} are lost"
    assert not frozen & able
    assert all(any(repr(name) in note for note in found.notes) for name in frozen)
    # some gradients are zero but for rounding (a bias before a norm), so the largest sets the scale
    close = 2e-5 * max(float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None)
    for name, p in module.named_parameters():
        if p.grad is None:
            assert name not in grads
        elif name in wanted:
            expected = p.grad.numpy()
            if name in found.layouts:
                expected = expected.transpose(found.layouts[name])
            assert grads[name].size == expected.size
            np.testing.assert_allclose(grads[name].ravel(), expected.ravel(), rtol=1e-4, atol=close, err_msg=name)
    return grads
