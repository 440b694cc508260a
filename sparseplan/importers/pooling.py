"""Pools of one and two spatial axes while a network is imported: what windows of every origin hold and count."""

from __future__ import annotations

from collections.abc import Sequence

from sparseplan.importers.draft import Attr, Draft, Made

Numbers = Sequence[int]


def beyond(extents: Numbers, kernel: Numbers, stride: Numbers, before: Numbers, after: Numbers) -> list[int]:
    """Entries that the last windows reach beyond the padding behind where their number is rounded up: ceil_mode.

    No window begins in the padding behind.
    """
    found = []
    for n, k, s, b, a in zip(extents, kernel, stride, before, after, strict=True):
        count = -(-(n + b + a - k) // s) + 1
        if (count - 1) * s >= n + b:
            count -= 1
        found.append(max(0, (count - 1) * s + k - (n + b + a)))
    return found


def pooled(
    draft: Draft, kind: str, x: Made, kernel: Numbers, stride: Numbers, before: Numbers, after: Numbers,
    more: Numbers = (), counted: bool | None = None, divisor: int | None = None,
) -> Made:  # fmt: skip
    """``max_pool`` or ``avg_pool`` over the last axes of ``x``.

    Args:
        more: entries behind the padding that ``ceil_mode`` adds; they never count.
        counted: of means, whether the padding counts as zeros.
        divisor: of means, what sums are divided by instead of their number of entries.
    """
    spatial = len(kernel)
    more = more or [0] * spatial
    attrs: dict[str, Attr] = {}
    if divisor is not None:
        counted, after, more = True, [a + m for a, m in zip(after, more, strict=True)], [0] * spatial
    if counted is not None:
        attrs["count_include_pad"] = counted
        if counted and any(more):  # padding that counts is laid around; then only what is there counts
            if any((*before, *after)):
                lead = [0] * (x.rank - spatial)
                x = draft.pad(x, [*lead, *before], [*lead, *after], "constant")
                before = after = [0] * spatial
            attrs["count_include_pad"] = False
    behind = [a + m for a, m in zip(after, more, strict=True)]
    if spatial == 1:
        attrs |= {"kernel": kernel[0], "stride": stride[0], "padding": (before[0], behind[0])}
    else:
        attrs |= {"kernel": tuple(kernel), "stride": tuple(stride), "padding": (*before, *behind)}
    made = draft.spatial(kind + ("1d" if spatial == 1 else ""), x, spatial, None, **attrs)
    if divisor is None:
        return made
    entries = 1
    for k in kernel:
        entries *= k
    return draft.same("scale_shift", made, scale=entries / divisor)
