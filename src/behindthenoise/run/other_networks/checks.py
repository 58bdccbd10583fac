"""What is in other people's options and arrays, and whether a calibration, or the intervals of one, can be made of it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf

import numpy as np
from jaxtyping import Bool
from pydantic import ValidationError

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration import scores
from behindthenoise.core.calibration.units import Box, Kind, box_around
from behindthenoise.errors import CalibrationError, ConfigError, SourceError
from behindthenoise.run.other_networks.arrays import KINDS, Arrays, Voxels

MOST_TOKENS = 255
LARGEST = float(np.finfo(np.float32).max)


def settings(values: Mapping[str, object]) -> CalibrationConfig:
    """
    A calibration's section of the configuration, checked as in a file.

    Raises
    ------
    ConfigError
        Names each wrong option with its value and what is allowed.
    """
    try:
        return CalibrationConfig.model_validate(dict(values))
    except ValidationError as problem:
        found: dict[str, list[str]] = defaultdict(list)
        for error in problem.errors():
            message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            found[f"--{error['loc'][0]} is {error['input']!r}"].append(message)
        raise ConfigError("; ".join(f"{option}: {', or '.join(messages)}" for option, messages in found.items())) from None


@dataclass(frozen=True)
class Content:
    """
    What one reading of the arrays finds.

    Attributes
    ----------
    boxes
        For every image, the box around its voxels that are not masked; None where it has none.
    voxels
        Their number.
    range
        Least and largest truth.
    crossed, exact
        Voxels whose quantiles do not rise, and those whose quantiles all are the truth.
    tokens
        Largest token; None without tokens.
    rounded
        Arrays with numbers that float32 does not hold.
    """

    boxes: list[Box | None]
    voxels: int
    range: tuple[float, float]
    crossed: int
    exact: int
    tokens: int | None
    rounded: tuple[str, ...]


def inspect(arrays: Arrays) -> Content:
    """
    Read all arrays once.

    Raises
    ------
    SourceError
        If all voxels are masked, or one that is not holds no number or no token.
    """
    boxes: list[Box | None] = [None] * arrays.shape[0]
    voxels = crossed = exact = tokens = 0
    rounded: set[str] = set()
    least, largest = inf, -inf
    for piece in arrays.voxels():
        expect_numbers(arrays, piece)
        if not piece.chosen.any():
            continue
        image, *start = piece.corner.tolist()
        for index, chosen in enumerate(piece.chosen, image):
            boxes[index] = _around(boxes[index], box_around(chosen), start)
        lower, median, upper = piece.quantiles
        truth = piece.values["truth"]
        voxels += truth.size
        crossed += int(np.count_nonzero((lower > median) | (median > upper)))
        exact += int(np.count_nonzero((lower == truth) & (median == truth) & (upper == truth)))
        rounded |= {name for name in piece.values if name not in rounded and piece.rounded(name).any()}
        least, largest = float(truth.min(initial=least)), float(truth.max(initial=largest))
        tokens = int(piece.values["tokens"].max(initial=tokens)) if "tokens" in piece.values else 0
    if not voxels:
        raise SourceError(
            f"--mask {arrays.paths['mask']} is 0 everywhere, so that nothing calibrates; it must be 1 where voxels count"
        )
    largest_token = tokens if "tokens" in arrays.stored else None
    return Content(boxes, voxels, (least, largest), crossed, exact, largest_token, _options(rounded))


def expect_numbers(arrays: Arrays, piece: Voxels) -> None:
    """
    Refuse voxels that calibrate and have no number or no token.

    Raises
    ------
    SourceError
        Names the array and the first such voxel.
    """
    for name in piece.values:
        found = chain(faults(piece, name), gaps(piece, name))
        expect_none(arrays, name, piece, found, "leave them out by a --mask that is 0 there")


def faults(piece: Voxels, name: str) -> Iterator[tuple[Bool[np.ndarray, " n"], str]]:
    """Voxels with a number that nothing can be computed from, and why."""
    given, values = piece.given[name], piece.values[name]
    yield np.isinf(values) & np.isfinite(given), f"which is too large for float32 (at most {LARGEST:.2g})"
    if name == "spread":
        yield values < 0, "and a standard deviation is 0 or more"


def gaps(piece: Voxels, name: str) -> Iterator[tuple[Bool[np.ndarray, " n"], str]]:
    """Voxels without a number or a token, and why."""
    values = piece.values[name]
    if name == "tokens":
        yield (values < 1) | (values > MOST_TOKENS), f"and tokens are counted from 1 to {MOST_TOKENS}"
    else:
        yield ~np.isfinite(values), "which is no number"


def expect_none(arrays: Arrays, name: str, piece: Voxels, found: Iterable[tuple[Bool[np.ndarray, " n"], str]], cure: str) -> None:
    """
    Nothing, if no voxel was found.

    Raises
    ------
    SourceError
        Names the array, the first voxel and what else than mending it will do.
    """
    for wrong, why in found:
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            place = np.argwhere(piece.chosen)[first] + piece.corner
            where = ", ".join(map(str, place[-len(arrays.stored[name].shape) :].tolist()))
            raise SourceError(
                f"--{name} {arrays.paths[name]} holds {piece.given[name][first]} at [{where}], {why}; mend such voxels, or {cure}"
            )


def expect_support(config: CalibrationConfig, arrays: Arrays, content: Content) -> None:
    """
    Nothing, if the truth lies inside the support, where intervals are cut off.

    Raises
    ------
    CalibrationError
        Names the range of the truth.
    """
    try:
        scores.expect_support(config.support, "truth", *content.range)
    except CalibrationError as problem:
        (least, largest), ends = content.range, ("null" if end is None else f"{end:g}" for end in config.support)
        raise CalibrationError(
            f"--truth {arrays.paths['truth']} holds {least:g} to {largest:g}, and --support is {' '.join(ends)}; intervals are cut "
            "there and would miss what lies outside; widen --support, or use null"
        ) from problem


def expect_block(config: CalibrationConfig, kind: Kind, content: Content) -> None:
    """
    Nothing, if a block fits into an image at least along its longest axis.

    Raises
    ------
    ConfigError
        Says how large it may be.
    """
    longest = max(part.stop - part.start for box in content.boxes if box is not None for part in box)
    if kind == "block" and config.block != "auto" and config.block > longest:
        raise ConfigError(
            f"--block {config.block} is larger than what calibrates, whose longest axis has {longest} voxels; use at most {longest}"
        )


def expect_spread(kind: scores.Kind, arrays: Arrays) -> None:
    """
    Refuse a spread without a use, and the need of one that is not there.

    Raises
    ------
    ConfigError
        If the score and the arrays do not fit.
    """
    if (kind == "ensemble") != ("spread" in arrays.stored):
        given = "was given" if "spread" in arrays.stored else "is missing"
        raise ConfigError(f"--spread {given}, and the score is {kind!r}; the score 'ensemble', and no other, divides by it")


def expect_tokens(count: int | None, arrays: Arrays) -> None:
    """
    Refuse tokens without a use, and the need of some that are not there.

    Raises
    ------
    ConfigError
        If there are tokens on one side only.
    """
    if (count is None) == ("tokens" in arrays.stored):
        given = "was given" if count is None else "is missing"
        raise ConfigError(
            f"--tokens {given}, and the calibration was made {'without' if count is None else 'with'} tokens; do the same"
        )


def rounded_in(arrays: Arrays) -> tuple[str, ...]:
    """
    Options whose arrays hold numbers that float32 does not.

    Raises
    ------
    SourceError
        If it cannot hold one of them at all, or a spread is negative; names the first such voxel.
    """
    found = set()
    for name, array in arrays.stored.items():
        if name == "tokens" or (name != "spread" and np.can_cast(array.dtype, np.float32)):
            continue
        for piece in arrays.only(name).voxels():
            expect_none(arrays, name, piece, faults(piece, name), "make them NaN, which gets no interval")
            if name not in found and piece.rounded(name).any():
                found.add(name)
    return _options(found)


def tokens_in(arrays: Arrays, count: int) -> set[int]:
    """
    Tokens that occur, and 0 where a voxel has none.

    Raises
    ------
    ConfigError
        If there are others than the calibration knows.
    """
    least, largest, seen = inf, -inf, np.zeros(count + 1, np.int64)
    for piece in arrays.only("tokens").voxels():
        tokens = piece.values["tokens"]
        least, largest = min(least, int(tokens.min())), max(largest, int(tokens.max()))
        seen += np.bincount(np.clip(tokens, 0, count).astype(np.int64), minlength=count + 1)
    if least < 0 or largest > count:
        raise ConfigError(
            f"--tokens {arrays.paths['tokens']} holds {least} to {largest}, and the calibration knows 1 to {count}; "
            "use the same tokens, and 0 where there is none"
        )
    return set(np.flatnonzero(seen).tolist())


def _options(names: Iterable[str]) -> tuple[str, ...]:
    """Names of arrays as options, in one order."""
    return tuple(f"--{name}" for name in KINDS if name in set(names))


def _around(box: Box | None, other: Box | None, start: Sequence[int]) -> Box | None:
    """The box around one, and another that is counted from a corner."""
    if other is None:
        return box
    moved = tuple(slice(part.start + shift, part.stop + shift) for part, shift in zip(other, start, strict=True))
    if box is None:
        return moved
    return tuple(slice(min(one.start, two.start), max(one.stop, two.stop)) for one, two in zip(box, moved, strict=True))
