"""Exact plans for fine-tuning neural networks inside a microcontroller's memory."""

from __future__ import annotations

__version__ = "0.1.0"
