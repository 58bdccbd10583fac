"""What intervals promise, for which units, on which grounds: plain data and plain words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration.guarantees import FEWEST_BLOCKS, FEWEST_UNITS
from behindthenoise.core.calibration.ranks import percent
from behindthenoise.core.calibration.survey import LARGEST
from behindthenoise.core.calibration.units import Kind


@dataclass(frozen=True)
class Basis:
    """
    What the calibration data are.

    Attributes
    ----------
    kind
        What a unit is.
    edge
        Edge of a block in voxels.
    radius
        Distance in voxels over which misses are correlated; 0 where images are the units.
    blocks
        Fewest blocks in which the dependence of some channel or group of voxels was measured; None where none was.
    units, fields
        Number of units, and of fields with calibration voxels.
    scans
        Fast scans of one field; they share one clean image.
    one_field
        Whether the voxels of a field count as what their dependence leaves of them, in place of units.
    groups
        Classes of voxels with thresholds of their own, for the channel that has most.
    grouped_by
        Names of what groups depend on; empty for one threshold per channel.
    """

    kind: Kind
    edge: int
    radius: int
    blocks: float | None
    units: int
    fields: int
    scans: int
    one_field: bool
    groups: int
    grouped_by: tuple[str, ...]


def fewest_blocks(records: Iterable[Mapping[str, object]]) -> float | None:
    """Fewest blocks behind some threshold, by the records of all; None where none of them rests on blocks."""
    return min((float(str(record["blocks"])) for record in records if "blocks" in record), default=None)


def statement(config: CalibrationConfig, basis: Basis) -> str:
    """The promise in one or two sentences."""
    share, kind, grounds = percent(1 - config.miscoverage), basis.kind, f"{basis.units} calibration {basis.kind}s"
    groups = f" and of each group of voxels (by {' and '.join(basis.grouped_by)}) that has thresholds of its own"
    pixels = f"{share} of the pixels of a channel{groups if basis.grouped_by else ''}"
    sure = percent(1 - config.allowed_failure)
    single = f"A single {kind}, structure or pixel may be covered less often."
    if config.guarantee == "pac" and basis.one_field:
        fields = "one field" if basis.fields == 1 else f"{basis.fields} fields"
        return (
            f"With {sure} confidence, at least {pixels} lie inside their interval, on average over more of the same material. "
            f"The promise is about this specimen: {fields} cannot show how another one differs."
        )
    about = "" if kind == "image" else " The promise is about this specimen: blocks of it cannot show how another one differs."
    if config.guarantee == "pac":
        return (
            f"With {sure} confidence in the {grounds}, at least {pixels} lie inside their interval, on average over new {kind}s. "
            f"{single}{about}"
        )
    if config.guarantee == "rcps":
        return (
            f"With {sure} confidence in the {grounds}, at least {pixels} lie inside their interval, as the mean of the shares of "
            f"new {kind}s, in which a small one counts as much as a large one. {single}{about}"
        )
    if config.guarantee == "crc":
        return (
            f"At least {pixels} are expected inside their interval in new {kind}s, averaged also over the draw of the {grounds}. "
            f"{single}{about}"
        )
    if config.guarantee == "tolerance":
        most = percent(1 - config.allowed_shortfall)
        each = ", each group by itself" if basis.grouped_by else ""
        return (
            f"In at least {most} of new {kind}s, at least {pixels} lie inside their interval{each}, averaged also over the draw "
            f"of the {grounds}.{about}"
        )
    return (
        f"{pixels[0].upper()}{pixels[1:]} lie inside their interval on the calibration data. For new data nothing is promised: "
        "that would take pixels that do not depend on each other."
    )


def assumptions(config: CalibrationConfig, basis: Basis) -> list[str]:
    """Everything that must be true for the statement to hold."""
    kind = basis.kind
    found = [
        f"New {kind}s are exchangeable with the calibration {kind}s: same kind of specimen, instrument, dose and selection.",
        "New voxels are predicted by the same networks; how a field is cut into tiles changes nothing.",
        "The clean image is taken as the truth: the intervals cover what it shows, its own noise included.",
        "No calibration voxel was used to train, stop or choose a network, to fit tokens, or to fix constants.",
    ]
    if "token" in basis.grouped_by:
        found.append("Volumes that tokens were fitted on besides training data, if any, show none of the calibration fields.")
    if config.guarantee == "pac":
        what = "the misses of a field depend on each other" if basis.one_field else f"{kind}s differ"
        found.append(
            f"How much {what} is estimated from the calibration data themselves: right for many, checked by simulation for few "
            "(docs/guarantees.md)."
        )
    if kind == "block" and not basis.one_field:
        found.append(
            f"Blocks of {basis.edge} voxels are neighbours; misses are correlated over {basis.radius} voxels. They show how "
            "intervals hold on the rest of this field, not how another specimen differs."
        )
    if basis.scans > 1:
        found.append(
            f"The {basis.scans} scans of a field share one clean image: they repeat the noise but not the structure, and are one "
            "structural unit."
        )
    if basis.grouped_by:
        shared = f"the probability to fail is shared among {basis.groups} of them, so that all hold at once"
        alone = "the promise is for each by itself"
        found.append(
            "Groups are found from predictions alone, by rules fixed on training voxels; "
            f"{shared if config.guarantee in ('pac', 'rcps') else alone}."
        )
    return found


def warnings(config: CalibrationConfig, basis: Basis, flagged: Sequence[str]) -> list[str]:
    """What was noticed that weakens the promise."""
    found = list(flagged)
    if basis.kind == "block" and not basis.one_field and basis.edge < 3 * basis.radius:
        found.append(
            f"Blocks of {basis.edge} voxels are short: misses are correlated over {basis.radius} voxels, so neighbouring blocks "
            f"depend on each other; blocks of {3 * basis.radius} would not."
        )
    if basis.one_field and basis.blocks is not None and basis.blocks < FEWEST_BLOCKS:
        found.append(
            f"Of some channel or group, the calibration voxels are worth no more than {basis.blocks:.2g} blocks of three "
            "correlation radii ('blocks' of each threshold): so few hardly show how far misses depend on each other, and the "
            f"promise may fail more often than it says. A larger calibration field would show it (of all fields, {LARGEST} voxels "
            "are looked at, or fewer where there are many channels and scans), and "
            f"{FEWEST_UNITS} images would be units themselves."
        )
    if config.guarantee == "pooled":
        found.append("Guarantee 'pooled' counts every pixel as independent, which those of an image are not: it promises nothing.")
    return found


def uneven(kind: Kind, units: int, equal: float) -> str:
    """The warning that units of very different size count as few."""
    return (
        f"The {units} {kind}s differ so much in size that they are worth {equal:.3g} of one size, which widens the intervals; "
        f"{kind}s of more even size would not."
    )


def rounded(names: Sequence[str]) -> str:
    """The assumption that what float32 cannot hold does not matter."""
    return (
        f"Numbers of {', '.join(names)} were rounded to float32, in which all is computed: the promise is about the rounded ones."
    )


def joined(sentence: str) -> str:
    """The warning that groups share a threshold."""
    return f"{sentence}: what is promised is promised for them together."
