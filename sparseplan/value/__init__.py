"""Measures of what updating a parameter is worth, one file each."""

from sparseplan.value.grad_norm import squared_gradient_norm

__all__ = ["squared_gradient_norm"]
