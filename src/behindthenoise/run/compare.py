"""Verb `compare`: held-out and volume quantiles, tokens → whether a volume looks like the calibration data, by inputs alone."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import comb, prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float32, Int64, UInt8

from behindthenoise.core.calibration.dependence import SMALLEST_EDGE
from behindthenoise.core.calibration.scores import rearrange
from behindthenoise.core.calibration.shift import (
    MOST_BLOCKS,
    SIGNIFICANCE,
    Finding,
    Frequencies,
    Quantity,
    block_means,
    compare_volume,
    count_outside,
    token_frequencies,
    usual_range,
)
from behindthenoise.core.calibration.units import Box, Kind
from behindthenoise.core.split import CALIBRATION
from behindthenoise.core.tokens import UNASSIGNED
from behindthenoise.io import stores
from behindthenoise.io.record import log, write_json
from behindthenoise.run import scored as on_disk
from behindthenoise.run.heldout import HeldOut
from behindthenoise.stages import Spec

MOST_VOXELS = 1 << 12  # of each block: its mean is then known to 1/64 of the spread inside it
FIELD = "field"  # name of the volume that is the training field itself
SEED = 0  # of what is sampled; the findings of a run can be made again


@dataclass(frozen=True, eq=False)
class Inputs:
    """
    What is known of sampled voxels before any truth.

    Attributes
    ----------
    values
        Predicted median of every channel, then predicted width of every channel, before calibration.
    token
        From 1.
    block
        Which block each voxel lies in.
    """

    values: Float32[np.ndarray, " feature n"]
    token: UInt8[np.ndarray, " n"]
    block: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """
    Blocks of one shape in each image, some of which are compared.

    Attributes
    ----------
    shape
        Edges in voxels.
    origins
        For every image, the corner that blocks are counted from.
    numbers
        Number of each block among those that are compared, -1 for the others.
    pattern
        Which voxels of a block are read, the same in all blocks: it depends on no chunk and no tile.
    """

    shape: tuple[int, ...]
    origins: Int64[np.ndarray, " image axis"]
    numbers: Int64[np.ndarray, " image *grid"]
    pattern: Bool[np.ndarray, " *block"]

    def meets(self, image: int, region: Box) -> bool:
        """Whether a block that is compared has voxels in a region."""
        spans = zip(region, self.origins[image].tolist(), self.shape, strict=True)
        where = tuple(slice((part.start - start) // edge, (part.stop - start - 1) // edge + 1) for part, start, edge in spans)
        return bool((self.numbers[image][where] >= 0).any())

    def of(self, image: int, position: Int64[np.ndarray, " axis n"]) -> Int64[np.ndarray, " n"]:
        """Number of each voxel's block; -1 for a voxel that is not read."""
        offset, shape = position - self.origins[image][:, None], np.array(self.shape)[:, None]
        return np.asarray(np.where(self.pattern[tuple(offset % shape)], self.numbers[image][tuple(offset // shape)], -1))


def run(
    spec: Spec, *, pairs: Path, heldout: Path, labels: Path, scores: Path, quantiles: Path, finished: Path, shift: Path
) -> None:
    """Write the findings, and log them."""
    source, units = HeldOut.open(pairs, heldout, labels), on_disk.read(scores)
    raw = stores.whole_array(stores.open_group(quantiles), "quantiles")
    tokens = stores.whole_array(stores.open_group(finished), "labels/tokens/0")
    name = finished.name.removesuffix(".ome.zarr")
    found = findings(source, raw, tokens, units.unit_kind, units.unit_edge)
    for finding in found:
        log(f"compare: {name}: {'FLAGGED: ' if finding.flagged else ''}{finding.sentence}")
    fields = sum(box is not None for box in source.boxes(int(CALIBRATION)))
    write_json(
        shift,
        {
            "volume": name,
            "same_field": name == FIELD,
            "specimen": specimen(name == FIELD, units.unit_kind, fields),
            "findings": [{**asdict(finding), "flagged": finding.flagged} for finding in found],
        },
    )


def specimen(same_field: bool, kind: Kind, fields: int) -> str:
    """What the certificate's promise is about, for one volume."""
    if same_field:
        return (
            "This volume is a field of the pairs themselves, and the certificate's promise is about their kind; voxels that the "
            "networks were trained on may be predicted better than new ones."
        )
    if kind == "image":
        return (
            f"The certificate's promise is about new images of the kind that the {fields} calibration images show. Whether this "
            "volume is of that kind cannot be proved; the checks find what plainly is not."
        )
    shown = "one field cannot show" if fields == 1 else f"{fields} fields cannot show"
    return (
        f"The certificate's promise is about the specimen that was calibrated; {shown} how another one differs. Whether this "
        "volume is the same material, imaged in the same way, cannot be proved; the checks find what plainly is not."
    )


def findings(source: HeldOut, raw: zarr.Array[Any], tokens: zarr.Array[Any], kind: Kind, edge: int) -> list[Finding]:
    """
    Outcome of every check, or the one finding that there are too few blocks for any.

    Parameters
    ----------
    source
        Held-out voxels; those that calibrate are compared.
    raw, tokens
        Quantiles (3, c, *space) and tokens (*space, 0 where masked) of the volume.
    kind, edge
        What the units of the calibration are, and the edge of a block.
    """
    random, channels = np.random.default_rng(SEED), source.axes.channels
    checks = 2 * len(channels) + 1
    boxes = source.boxes(int(CALIBRATION))
    shape = block_shape(kind, edge, boxes, tokens.shape, checks)
    pattern = random.random(shape) < MOST_VOXELS / prod(shape)
    origins = np.array([[part.start for part in box] if box else [0] * len(shape) for box in boxes])
    calibration_sizes, volume_sizes = sizes_in_pairs(source, boxes, shape), sizes_in_volume(tokens, shape)
    many, more = (int(is_filled(sizes, shape).sum()) for sizes in (volume_sizes, calibration_sizes))
    log(f"compare: {many} blocks of {' x '.join(map(str, shape))} voxels, {more} of the calibration data")
    if not can_tell(many, more, checks):
        return [too_small(many, more, checks, shape)]
    inputs = [
        read_pairs(source, Blocks(shape, origins, chosen(calibration_sizes, shape, random), pattern)),
        read_volume(raw, tokens, Blocks(shape, np.zeros_like(origins[:1]), chosen(volume_sizes, shape, random), pattern)),
    ]
    names = [f"predicted {what} of channel {channel}" for what in ("median", "raw width") for channel in channels]
    quantities = [
        quantity(name, *(part.values[row] for part in inputs), *(part.block for part in inputs)) for row, name in enumerate(names)
    ]
    count = max(int(part.token.max()) for part in inputs)
    return compare_volume(quantities, Frequencies(*(token_frequencies(part.token, part.block, count) for part in inputs)), random)


def quantity(name: str, calibration: np.ndarray, volume: np.ndarray, *blocks: np.ndarray) -> Quantity:
    """One quantity of the sampled voxels of both sides, by block."""
    outside = count_outside(volume, usual_range(calibration)) / volume.size
    return Quantity(name, block_means(calibration, blocks[0]), block_means(volume, blocks[1]), outside)


def block_shape(kind: Kind, edge: int, boxes: Sequence[Box | None], volume: tuple[int, ...], checks: int) -> tuple[int, ...]:
    """
    Edges of the blocks, the same on both sides; along each axis they fit into the calibration data and into the volume.

    Where blocks are the units, the edge is theirs: smaller ones would depend on each other. Where images are the units, a block is
    as large as an image, as images are what is exchangeable. A volume no larger than an image is one sample, which shows nothing;
    then, and only then, both are cut up, into as few blocks as can tell a difference, because the blocks of one image are alike.
    """
    extents = np.array([[part.stop - part.start for part in box] for box in boxes if box is not None])
    shape = np.minimum(np.median(extents, axis=0).astype(int), volume)
    if kind == "block":
        return tuple(np.minimum(shape, edge).tolist())
    while shape.max() >= 2 * SMALLEST_EDGE:
        if can_tell(int(np.prod(volume // shape)), int(np.prod(extents // shape, axis=1).sum()), checks):
            break
        longest = int(shape.argmax())
        shape[longest] = -(-shape[longest] // 2)
    return tuple(shape.tolist())


def can_tell(volume: int, calibration: int, checks: int) -> bool:
    """Whether the largest possible difference between so many blocks would be significant, after Holm's correction."""
    if min(volume, calibration) < 2:
        return False
    # two samples of one size have the same distance when they are exchanged
    alike = 2 if volume == calibration else 1
    volume, calibration = min(volume, MOST_BLOCKS), min(calibration, MOST_BLOCKS)  # all that is compared, and no number is huge
    return checks * alike / SIGNIFICANCE <= comb(volume + calibration, volume)


def too_small(volume: int, calibration: int, checks: int, shape: tuple[int, ...]) -> Finding:
    """Says so, and flags nothing."""
    sentence = (
        f"too small to compare: the volume has {volume} and the calibration data have {calibration} blocks of "
        f"{' x '.join(map(str, shape))} voxels that are not mostly masked; too few for {checks} checks to tell any difference from "
        "chance"
    )
    return Finding("size", 1.0, 0.0, sentence)


def sizes_in_pairs(source: HeldOut, boxes: Sequence[Box | None], shape: tuple[int, ...]) -> Int64[np.ndarray, " image *grid"]:
    """Calibration voxels of one scan in each block of each image, counted from the corner of the image's box."""
    extents = np.array([[part.stop - part.start for part in box] for box in boxes if box is not None])
    sizes = np.zeros((len(boxes), *(-(-extents.max(axis=0) // shape))), np.int64)
    for image, box in enumerate(boxes):
        for region in stores.blocks(source.role, (slice(image, image + 1), *box)) if box else ():
            corner = [part.start - whole.start for part, whole in zip(region[1:], box or (), strict=True)]
            add_sizes(sizes[image], np.asarray(source.role[region])[0] == CALIBRATION, corner, shape)
    return sizes


def sizes_in_volume(tokens: zarr.Array[Any], shape: tuple[int, ...]) -> Int64[np.ndarray, " 1 *grid"]:
    """Voxels with a token in each block: all but those that are masked."""
    sizes = np.zeros((1, *(-(-size // edge) for size, edge in zip(tokens.shape, shape, strict=True))), np.int64)
    for region in stores.blocks(tokens):
        add_sizes(sizes[0], np.asarray(tokens[region]) != UNASSIGNED, [part.start for part in region], shape)
    return sizes


def add_sizes(
    sizes: Int64[np.ndarray, " *grid"], valid: Bool[np.ndarray, " *region"], corner: Sequence[int], shape: Sequence[int]
) -> None:
    """Add the valid voxels of a region that begins at `corner` to the sizes of the blocks that it meets."""
    found, where = valid.astype(np.int64), []
    for axis, (start, size, edge) in enumerate(zip(corner, valid.shape, shape, strict=True)):
        met = slice(start // edge, (start + size - 1) // edge + 1)
        found = np.add.reduceat(found, np.maximum(np.arange(met.start, met.stop) * edge - start, 0), axis=axis)
        where.append(met)
    sizes[tuple(where)] += found


def is_filled(sizes: Int64[np.ndarray, " image *grid"], shape: tuple[int, ...]) -> Bool[np.ndarray, " image *grid"]:
    """Blocks that have at least half of their voxels: neither mostly masked nor cut off at a border."""
    return np.asarray(2 * sizes >= prod(shape))


def chosen(
    sizes: Int64[np.ndarray, " image *grid"], shape: tuple[int, ...], random: np.random.Generator
) -> Int64[np.ndarray, " image *grid"]:
    """Numbers of the blocks that are compared, in random order: all that are filled, or as many of them as may be; -1 elsewhere."""
    numbers = np.full(sizes.size, -1)
    taken = random.permutation(np.flatnonzero(is_filled(sizes, shape)))[:MOST_BLOCKS]
    numbers[taken] = np.arange(taken.size)
    return numbers.reshape(sizes.shape)


def read_pairs(source: HeldOut, blocks: Blocks) -> Inputs:
    """
    Sampled calibration voxels, block by block of the store.

    The scans of a field share its structure, so a block counts once. Blocks take turns with the scans: the mean over all scans
    would have less noise than the one scan that a volume is, and so would make every volume of even material look different.
    """

    def parts() -> Iterable[Inputs]:
        for piece in source.pieces(int(CALIBRATION)):
            block = blocks.of(piece.image, piece.position)
            kept = (block >= 0) & (block % source.scans == piece.scan)
            yield Inputs(features(piece.quantiles[..., kept]), piece.token[kept], block[kept])

    return joined(parts())


def read_volume(raw: zarr.Array[Any], tokens: zarr.Array[Any], blocks: Blocks) -> Inputs:
    """Sampled voxels of a volume; of the quantiles one chunk is held at a time, which is what one tile of `infer` wrote."""

    def parts() -> Iterable[Inputs]:
        for chunk in stores.blocks(raw):
            space = chunk[2:]
            if not blocks.meets(0, space):
                continue
            quantiles = np.asarray(raw[chunk])
            for region in filter(partial(blocks.meets, 0), stores.blocks(tokens, space)):
                token = np.asarray(tokens[region])
                inside = np.stack(np.nonzero(token != UNASSIGNED))
                block = blocks.of(0, inside + np.array([[part.start] for part in region]))
                inside, block = inside[:, block >= 0], block[block >= 0]
                starts = np.array([[part.start - whole.start] for part, whole in zip(region, space, strict=True)])
                yield Inputs(features(quantiles[(..., *(inside + starts))]), token[tuple(inside)], block)

    return joined(parts())


def features(quantiles: Float32[np.ndarray, " 3 c n"]) -> Float32[np.ndarray, " feature n"]:
    """Median of every channel, then width of every channel, of quantiles that may cross."""
    lower, median, upper = rearrange(*quantiles)
    return np.concatenate([median, upper - lower])


def joined(parts: Iterable[Inputs]) -> Inputs:
    """All voxels in one."""
    every = list(parts)
    return Inputs(
        np.concatenate([part.values for part in every], axis=1),
        np.concatenate([part.token for part in every]),
        np.concatenate([part.block for part in every]),
    )
