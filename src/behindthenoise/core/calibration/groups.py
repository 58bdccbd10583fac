"""Groups of voxels with a threshold of their own, by what is known before any truth: predicted intensity and token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Int64, Integer


@dataclass(frozen=True, eq=False)
class Groups:
    """
    How voxels are grouped.

    Attributes
    ----------
    edges
        Inner borders between bins of the predicted median, rising; None where intensity does not matter.
    tokens
        Number of tokens; None where they do not matter.
    """

    edges: Float[np.ndarray, " edge"] | None = None
    tokens: int | None = None

    @property
    def bins(self) -> int:
        """Bins of the predicted median; 1 where intensity does not matter."""
        return 1 if self.edges is None else len(self.edges) + 1

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.bins * (self.tokens or 1)

    @property
    def names(self) -> list[str]:
        """Each group in words."""
        tokens = [""] if self.tokens is None else [f"token {token}" for token in range(1, self.tokens + 1)]
        bins = [""] if self.edges is None else [f"intensity bin {index}" for index in range(1, self.bins + 1)]
        return [", ".join(filter(None, (token, part))) or "all voxels" for token in tokens for part in bins]

    def ids(self, median: Float[np.ndarray, " *shape"], token: Integer[np.ndarray, " *shape"]) -> Int64[np.ndarray, " *shape"]:
        """
        Group of every voxel, from 0.

        Parameters
        ----------
        median
            Predicted median in units of the image; a value on a border belongs to the upper bin.
        token
            From 1; a voxel without one (0) goes with the first.
        """
        part = 0 if self.edges is None else np.searchsorted(self.edges, median, side="right")
        first = 0 if self.tokens is None else np.maximum(token.astype(np.int64) - 1, 0)
        return np.broadcast_to(np.asarray(first * self.bins + part, np.int64), median.shape)

    def places(
        self, intensities: Float[np.ndarray, " bin"], centroids: Float[np.ndarray, " token d"]
    ) -> Float[np.ndarray, " group e"]:
        """
        A point for each group; near ones share a threshold where they must.

        Parameters
        ----------
        intensities
            A representative median of each bin, in standard units; ignored where intensity does not matter.
        centroids
            Of the tokens in the embedding; ignored where tokens do not matter.
        """
        parts = np.zeros((1, 0)) if self.tokens is None else centroids.astype(np.float64)
        along = np.zeros((1, 0)) if self.edges is None else intensities.astype(np.float64)[:, None]
        return np.concatenate([np.repeat(parts, len(along), axis=0), np.tile(along, (len(parts), 1))], axis=1)


@dataclass(frozen=True, eq=False)
class Merging:
    """
    Which groups share a threshold.

    Attributes
    ----------
    members
        Groups of each class that has a threshold of its own; together all groups, those that never occurred among them.
    sentences
        What was merged, in words.
    """

    members: tuple[tuple[int, ...], ...]
    sentences: tuple[str, ...]


def merge(
    names: Sequence[str],
    places: Float[np.ndarray, " group d"],
    pixels: Int[np.ndarray, " group"],
    is_large: Callable[[tuple[int, ...], int], bool],
) -> Merging:
    """
    Join every group that is too small with the nearest, the smallest first, until all are large enough or one is left.

    Parameters
    ----------
    names
        Of the groups, for the sentences.
    places
        A point for each; a class lies where its pixels lie on average.
    pixels
        Calibration pixels; a group without any goes with the nearest that has some.
    is_large
        Whether groups, taken together, can have a threshold of their own where there are so many classes; if they can with more
        classes, they can with fewer.
    """
    classes: list[tuple[int, ...]] = [(group,) for group in np.flatnonzero(pixels).tolist()] or [(0,)]

    def centre(members: tuple[int, ...]) -> np.ndarray:
        weights = pixels[list(members)]
        return np.asarray(np.average(places[list(members)], axis=0, weights=weights if weights.any() else None))

    def nearest(members: tuple[int, ...]) -> tuple[int, ...]:
        others = [other for other in classes if other != members]
        return min(others, key=lambda other: (float(np.linalg.norm(centre(other) - centre(members))), other))

    settled: set[tuple[int, ...]] = set()
    while len(classes) > 1:
        waiting = [members for members in classes if members not in settled]
        if not waiting:
            break
        smallest = min(waiting, key=lambda members: (int(pixels[list(members)].sum()), members))
        if is_large(smallest, len(classes)):
            settled.add(smallest)
            continue
        partner = nearest(smallest)
        classes = [members for members in classes if members not in (smallest, partner)]
        classes.append(tuple(sorted(smallest + partner)))
    for group in np.flatnonzero(pixels == 0).tolist():
        if not any(group in members for members in classes):
            home = nearest((group,))
            classes[classes.index(home)] = (*home, group)
    final = tuple(sorted(tuple(sorted(members)) for members in classes))
    return Merging(final, tuple(_sentence(members, names, pixels) for members in final if len(members) > 1))


def _sentence(members: tuple[int, ...], names: Sequence[str], pixels: Int[np.ndarray, " group"]) -> str:
    """Which groups share a threshold."""
    listed = [f"{names[group]} ({int(pixels[group])} pixels)" for group in members]
    return f"{', '.join(listed[:-1])} and {listed[-1]} share one threshold"
