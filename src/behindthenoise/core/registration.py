"""How far two scans of one field are displaced against each other."""

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft
from scipy.ndimage import gaussian_filter

EDGES = (128, 64, 32)  # of blocks along each axis, the largest that makes enough of them
LARGEST = 1 << 18  # voxels of a block
FEWEST, MOST = 6, 16  # blocks: fewer tell no error, more tell little more
REACH = 4  # displacements of up to this part of a block are looked for
SMOOTH = 8.0  # voxels: what varies more slowly tells little about a displacement
NOTABLE, CERTAIN = 0.5, 4.0  # voxels, and standard errors
CLEAR = 6.0  # standard deviations by which a peak must rise above what chance makes at thousands of displacements

Block = tuple[int, tuple[slice, ...]]  # an image, and a box in it


@dataclass(frozen=True)
class Displacement:
    """
    How much further along each axis the slow scan shows what the fast scan shows.

    Attributes
    ----------
    voxels
        Along each axis.
    error
        Their standard errors.
    """

    voxels: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def is_notable(self) -> bool:
        """Whether it is half a voxel or more along some axis, and not by chance."""
        return any(abs(size) >= max(NOTABLE, CERTAIN * error) for size, error in zip(self.voxels, self.error, strict=True))


def displacement(
    fast: Float[np.ndarray, " image c *space"],
    slow: Float[np.ndarray, " image c *space"],
    known: Bool[np.ndarray, " image *space"],
    random: np.random.Generator,
) -> Displacement | None:
    """
    The displacement at which two scans correlate best, in whatever varies within a few voxels; all images have it in common.

    It is looked for in blocks; its error is that of the jackknife, which leaves out one after the other.

    Parameters
    ----------
    known
        Voxels that may be looked at; elsewhere the scans may hold anything.
    random
        Chooses among the blocks, where there are many.

    Returns
    -------
    Displacement or None
        None if there are too few blocks, or if they correlate nowhere within reach.

    References
    ----------
    Guizar-Sicairos et al. (2008), Optics Letters 33, 156-158, of correlation by Fourier transforms; Efron & Stein (1981), Annals of
    Statistics 9, 586-596, of the error.
    """
    boxes = next((found for edge in EDGES if len(found := _blocks(known, edge)) >= FEWEST), [])
    if not boxes:
        return None
    chosen = [boxes[index] for index in random.permutation(len(boxes))[:MOST]]
    overlaps = _correlations(*[np.stack([known[image][box] for image, box in chosen])[:, None].astype(np.float32)] * 2)
    surfaces = _correlations(*(_details(scan, known, chosen) for scan in (fast, slow)))
    total, overlap = surfaces.sum(axis=0), overlaps.sum(axis=0)
    # by chance alone, as far as blocks differ among themselves
    if total.max() < CLEAR * np.sqrt(len(chosen) * surfaces.var(axis=0, ddof=1).mean()):
        return None
    peak = _peak(total / overlap)
    others = [_peak((total - one) / (overlap - own)) for one, own in zip(surfaces, overlaps, strict=True)]
    without_one = [other for other in others if other is not None]
    if peak is None or len(without_one) < len(others):
        return None
    error = np.sqrt(len(chosen) - 1) * np.std(without_one, axis=0)
    return Displacement(tuple(map(float, peak)), tuple(map(float, error)))


def _blocks(known: Bool[np.ndarray, " image *space"], edge: int) -> list[Block]:
    """Image and box of blocks side by side, at least half of whose voxels are known."""
    edges = [min(edge, size) for size in known.shape[1:]]
    if prod(edges) > LARGEST:
        return []
    starts = [range(0, size - step + 1, step) for size, step in zip(known.shape[1:], edges, strict=True)]
    boxes = [tuple(slice(start, start + step) for start, step in zip(corner, edges, strict=True)) for corner in product(*starts)]
    return [(image, box) for image in range(len(known)) for box in boxes if known[image][box].mean() >= 0.5]


def _details(
    scan: Float[np.ndarray, " image c *space"], known: Bool[np.ndarray, " image *space"], blocks: list[Block]
) -> Float[np.ndarray, " block c *box"]:
    """Blocks without what varies slowly, every channel with variance 1 over all of them; 0 where nothing is known."""
    sigma = (0, *[SMOOTH] * (known.ndim - 1))
    found = []
    for image, box in blocks:
        there = known[image][box][None].astype(np.float32)
        values = np.where(there, scan[image][(slice(None), *box)], np.float32(0))
        share = gaussian_filter(there, sigma)
        mean = np.divide(gaussian_filter(values, sigma), share, out=np.zeros_like(values), where=share > 0)
        found.append(there * (values - mean))
    details = np.stack(found)
    spread = np.sqrt(np.square(details).mean(axis=(0, *range(2, details.ndim)), keepdims=True))
    return np.asarray(np.divide(details, spread, out=np.zeros_like(details), where=spread > 0))


def _correlations(
    fast: Float[np.ndarray, " block c *box"], slow: Float[np.ndarray, " block c *box"]
) -> Float[np.ndarray, " block *displaced"]:
    """Of each block, for every displacement within reach, the sum over channels and voxels of products; none lies in the middle."""
    return np.stack([_correlation(*both) for both in zip(fast, slow, strict=True)])  # one by one: spectra are large


def _correlation(fast: Float[np.ndarray, " c *box"], slow: Float[np.ndarray, " c *box"]) -> Float[np.ndarray, " *displaced"]:
    axes, reach = tuple(range(1, fast.ndim)), [size // REACH for size in fast.shape[1:]]
    padded = [fft.next_fast_len(size + most, real=True) for size, most in zip(fast.shape[1:], reach, strict=True)]
    spectrum = (fft.rfftn(fast, s=padded, axes=axes).conj() * fft.rfftn(slow, s=padded, axes=axes)).sum(axis=0)
    surface = fft.irfftn(spectrum, s=padded)
    for axis, most in enumerate(reach):
        surface = np.take(surface, np.arange(-most, most + 1), axis=axis)
    return surface


def _peak(surface: Float[np.ndarray, " *displaced"]) -> Float[np.ndarray, " axis"] | None:
    """Where a surface is highest, between its points by a parabola along each axis; None at its rim, where it may be higher yet."""
    top = np.unravel_index(np.argmax(surface), surface.shape)
    found = []
    for axis, (index, size) in enumerate(zip(top, surface.shape, strict=True)):
        if size > 1 and not 0 < index < size - 1:
            return None
        before, here, after = (surface[(*top[:axis], index + step, *top[axis + 1 :])] if size > 1 else 0.0 for step in (-1, 0, 1))
        bend = before - 2 * here + after
        found.append(index - size // 2 + ((before - after) / (2 * bend) if bend < 0 else 0.0))
    return np.array(found)
