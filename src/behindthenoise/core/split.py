"""Which voxel trains, which calibrates, which tests, and a gap between them that no receptive field can bridge."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from scipy.ndimage import distance_transform_cdt, maximum_filter

from behindthenoise.config import SPACE_AXES, Role, SplitConfig
from behindthenoise.errors import SplitError

UNUSED, TRAIN, CALIBRATION, TEST = (np.uint8(value) for value in range(4))
ROLES: dict[Role, np.uint8] = {"train": TRAIN, "calibration": CALIBRATION, "test": TEST}

_CURES = {
    "block": "use larger blocks than {block}, split.by region, or a smaller network.radius_max",
    "region": "use larger regions, regions further apart, or a smaller network.radius_max",
}


@dataclass(frozen=True)
class Split:
    """
    What every voxel is used for.

    Attributes
    ----------
    role
        One of `UNUSED`, `TRAIN`, `CALIBRATION`, `TEST`.
    unit
        Id of the block or image that a voxel belongs to; -1 where it is unused. A unit has one role.
    """

    role: UInt8[np.ndarray, " image *space"]
    unit: Int32[np.ndarray, " image *space"]


def split(config: SplitConfig, mask: Bool[np.ndarray, " image *space"], gap: int) -> Split:
    """
    Role and unit of every voxel, with at least `gap` voxels between two roles of one image.

    Training keeps all its voxels; calibration gives way to training, and test to both. Distances count from a role's whole
    territory: a masked voxel of a training block is training territory, because the network still sees it.

    Parameters
    ----------
    config
        How to cut: by whole images, by seeded random blocks, or by regions drawn by hand.
    mask
        True where a voxel carries data. Images and blocks without any get no role.
    gap
        Voxels strictly between two roles along at least one axis.

    Raises
    ------
    SplitError
        If the mask is empty, there are too few images or blocks, regions overlap, or the gap leaves nothing of a role.
    """
    if not mask.any():
        raise SplitError(
            f"the mask is empty: none of {mask.size} voxels carries data; give a mask that is True where there is data, or none"
        )
    territory, unit = _regions(config, mask) if config.by == "region" else _drawn(config, mask)
    territory = _with_gap(territory, gap)
    role = np.where(mask, territory, UNUSED)
    for name, value in ROLES.items():
        if not (role == value).any():
            cure = _CURES[config.by].format(block=config.block)
            sizes = " x ".join(map(str, mask.shape[1:]))
            raise SplitError(f"no {name} voxels are left after a gap of {gap} voxels; {cure} (a field has {sizes} voxels)")
    return Split(role=role, unit=np.where(role == UNUSED, np.int32(-1), unit))


def gap_of(config: SplitConfig, radius: int) -> int:
    """Voxels between two roles of one image: as configured, or so many that no receptive field of this radius sees both."""
    if config.by == "image":
        return 0
    return 2 * radius + 1 if config.gap == "auto" else config.gap


def check_no_leak(split: Split, gap: int) -> None:
    """
    Nothing, if the roles are as far apart as promised; computed by another way than the gap itself.

    Raises
    ------
    SplitError
        If fewer than `gap` voxels lie between two roles of one image, or a unit carries two roles.
    """
    for image, role in enumerate(split.role):
        for (name, value), (other_name, other) in combinations(ROLES.items(), 2):
            if not (role == value).any() or not (role == other).any():
                continue
            between = int(distance_transform_cdt(role != value, metric="chessboard")[role == other].min()) - 1
            if between < gap:
                raise SplitError(
                    f"{name} and {other_name} leak: {between} voxels lie between them in image {image}, but the gap is {gap}; "
                    "make the split again"
                )
    used = split.role != UNUSED
    pairs = np.unique(np.stack([split.unit[used], split.role[used].astype(np.int32)]), axis=1)
    units, roles = np.unique(pairs[0], return_counts=True)
    if (roles > 1).any():
        raise SplitError(f"unit {units[roles > 1][0]} carries two roles, and a unit may have one; make the split again")


def units_of(split: Split, role: int | np.uint8) -> Int32[np.ndarray, " unit"]:
    """Ids of the units that have at least one voxel of this role, rising."""
    return np.unique(split.unit[split.role == role])


def shown_image(split: Split) -> int:
    """Index of the image that stands for the training field where one is shown: the first that holds test voxels."""
    return int(np.argmax((split.role == TEST).reshape(len(split.role), -1).any(axis=1)))


def shown_plane(role: UInt8[np.ndarray, " *space"]) -> tuple[int, ...]:
    """Which plane of a field is shown, along its leading axes: that with most test voxels, of several the middlemost."""
    lead = role.shape[:-2]
    counts = (role == TEST).sum(axis=(-2, -1))
    places = np.argwhere(counts == counts.max())
    return tuple(places[np.abs(places - np.array(lead) // 2).sum(axis=1).argmin()].tolist())


def training_units(split: Split) -> Int32[np.ndarray, " unit"]:
    """Ids of the units that train, rising."""
    return units_of(split, TRAIN)


def _cells(shape: tuple[int, ...], edges: tuple[int, ...]) -> Int32[np.ndarray, " image *space"]:
    """Id of the grid cell that a voxel lies in; the last cell along an axis may be smaller."""
    along = [np.arange(size) // edge for size, edge in zip(shape, edges, strict=True)]
    counts = [-(-size // edge) for size, edge in zip(shape, edges, strict=True)]
    return np.ravel_multi_index(np.ix_(*along), counts).astype(np.int32)


def _drawn(
    config: SplitConfig, mask: Bool[np.ndarray, " image *space"]
) -> tuple[UInt8[np.ndarray, " image *space"], Int32[np.ndarray, " image *space"]]:
    """Territory and cells where whole images or blocks are drawn at random; an image is a block as large as itself."""
    edges = {"image": mask.shape[1:], "block": (config.block,) * (mask.ndim - 1)}[config.by]
    cell = _cells(mask.shape, (1, *edges))
    filled = np.bincount(cell[mask], minlength=int(cell[(-1,) * cell.ndim]) + 1) > 0
    drawn = np.random.default_rng(config.seed).permutation(np.flatnonzero(filled))
    role = np.zeros(filled.size, np.uint8)
    for value, part in zip(ROLES.values(), np.split(drawn, _bounds(config, drawn.size)), strict=False):
        role[part] = value
    return role[cell], cell


def _bounds(config: SplitConfig, count: int) -> tuple[int, int, int]:
    """Where training, calibration and test end in a list of `count` images or blocks; each gets at least one."""
    if count < len(ROLES):
        cure = {"image": "use more images or split.by block", "block": f"use smaller blocks than {config.block}"}[config.by]
        raise SplitError(
            f"{count} {config.by}s with data cannot be shared among train, calibration and test, which takes at least "
            f"{len(ROLES)}; {cure}"
        )
    # Shares are decimals: as floats, 0.7 + 0.2 + 0.1 of 5 would round down where 1 of 5 is meant.
    train, calibration, test = (Fraction(str(share)) for share in (config.train, config.calibration, config.test))
    first = min(max(round(train * count), 1), count - 2)
    second = min(max(round((train + calibration) * count), first + 1), count - 1)
    third = min(max(round((train + calibration + test) * count), second + 1), count)
    return first, second, third


def _regions(
    config: SplitConfig, mask: Bool[np.ndarray, " image *space"]
) -> tuple[UInt8[np.ndarray, " image *space"], Int32[np.ndarray, " image *space"]]:
    """Territory as drawn by hand, and grid cells that never reach over the border of a region."""
    axes = SPACE_AXES[1 - mask.ndim :]
    territory = np.zeros(mask.shape, np.uint8)
    for name, value in ROLES.items():
        spans = {str(axis): span for axis, span in config.regions[name].items()}
        if unknown := sorted(set(spans) - set(axes)):
            raise SplitError(
                f"region {name} spans {' '.join(unknown)}, but the field has {' '.join(axes)}; remove it from split.regions"
            )
        ends = [(spans.get(axis, (0, 1)), size) for axis, size in zip(axes, mask.shape[1:], strict=True)]
        region = (slice(None), *(slice(round(start * size), round(stop * size)) for (start, stop), size in ends))
        if taken := int(territory[region].max(initial=UNUSED)):
            raise SplitError(f"regions {list(ROLES)[taken - 1]} and {name} overlap; draw split.regions apart")
        if not mask[region].any():
            raise SplitError(f"region {name} holds no voxel with data; enlarge it, or move it to where the mask is True")
        territory[region] = value
    cell = _cells(mask.shape, (1, *(config.block,) * len(axes)))
    return territory, cell * np.int32(len(ROLES) + 1) + territory


def _with_gap(territory: UInt8[np.ndarray, " image *space"], gap: int) -> UInt8[np.ndarray, " image *space"]:
    """Territory where each role gives way to the roles before it."""
    # Along a short axis the box is cut: it reaches everywhere anyway.
    box = (1, *(2 * min(gap, size - 1) + 1 for size in territory.shape[1:]))
    kept = np.where(territory == TRAIN, TRAIN, UNUSED)
    for value in (CALIBRATION, TEST):
        near = maximum_filter((kept != UNUSED).astype(np.uint8), size=box, mode="constant", cval=0) > 0
        kept[(territory == value) & ~near] = value
    return kept
