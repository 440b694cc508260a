"""The L1 tile of every layer and pass of a network: bytes, DMA traffic, and what tiling costs.

    python benchmarks/tiles.py [--network upydnet] [--device gap9] [--dtype bf16] [--l1 128KiB]

``moved / least`` compares the traffic with moving every operand once, which no tile can beat.
"""

from __future__ import annotations

import argparse
import time

from sparseplan import zoo
from sparseplan.device import load_device
from sparseplan.ops import infos, op_def
from sparseplan.solve.tile import smallest_tile_bytes, tile_of, tiles_for


def main() -> None:
    """Print one row a (layer, pass), then the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="upydnet")
    parser.add_argument("--device", default="gap9")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--l1")
    args = parser.parse_args()
    device = load_device(args.device).with_budget(l1=args.l1)
    level = device.level("L1")
    if level.usable is None:
        parser.error(f"L1 of {device.name} is not bounded; give --l1")

    work = []
    for info in infos(zoo.get(args.network)).values():
        definition = op_def(info.kind)
        slots = [f"x{i}" for i in range(len(info.inputs)) if definition.differentiable(info, i)]
        work += [(info, pass_) for pass_ in ["forward", *slots, *info.params]]
    start = time.perf_counter()
    tiles = tiles_for(work, args.dtype, level.usable, device.double_buffer, level.alignment)
    seconds = time.perf_counter() - start

    print(f"{args.network} on {device.name}: L1 {level.usable:,} B, {args.dtype}")
    header = f"{'pass':34} {'tile':38} {'order':16} {'tiles':>5} {'L1 B':>8} {'share':>6} {'least L1':>8} "
    print(header + f"{'DMA B':>10} {'moved / least':>13} {'MAC / B':>8}")
    total = least_total = misfits = 0
    for info, pass_ in work:
        if (info.name, pass_) not in tiles:
            continue
        tile = tiles[info.name, pass_]
        space = op_def(info.kind).tile_space(info, pass_)
        assert space is not None
        need = smallest_tile_bytes(space, args.dtype, device.double_buffer, level.alignment)
        name = f"{info.name} {pass_}"
        if tile is None:
            misfits += 1
            print(f"{name:34} no tile fits: the least needs {need:,} B")
            continue
        least = tile_of(space, args.dtype, dict(space.axes), tile.order, False).dma_bytes
        total, least_total = total + tile.dma_bytes, least_total + least
        extents = dict(space.axes)
        sizes = " ".join(f"{a}={s}/{extents[a]}" for a, s in tile.sizes if extents[a] > 1)
        order = ">".join(a for a in tile.order if dict(tile.sizes)[a] < extents[a]) or "-"
        print(
            f"{name:34} {sizes:38} {order:16} {tile.tiles:5} {tile.l1_bytes:8,} {tile.l1_bytes / level.usable:6.1%} "
            f"{need:8,} {tile.dma_bytes:10,} {tile.dma_bytes / least:13.3f} {tile.macs / tile.dma_bytes:8.2f}"
        )
    print(
        f"{len(tiles)} passes, {misfits} without a tile; {total:,} B moved, {total / max(1, least_total):.3f} of the "
        f"least; searched in {seconds:.2f} s"
    )


if __name__ == "__main__":
    main()
