"""
How well displacements of scans are found: on measured pairs, channel by channel, and on generated ones, where they are known.

    python bench/displaced.py               a minute; expects the measured sets in ../shared/data

The first table has the displacement of the slow scan against the first fast scan along each axis, its standard error, and the
correlation of both as they are and with the slow scan moved back (linear interpolation). The second counts warnings.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy.ndimage import gaussian_filter, shift

from behindthenoise.core.registration import Displacement, displacement

DATA = Path(__file__).resolve().parents[2] / "shared/data"
EDGE, TURNS = 128, 100  # of generated images


def main() -> None:
    for name, fast, slow in measured():
        found = displaced(fast, slow)
        if found is None:
            print(f"{name:28} cannot be told")
            continue
        back = shift(slow, [-by for by in found.voxels], order=1, mode="nearest")
        steps = "  ".join(f"{by:+.2f} ± {error:.2f}" for by, error in zip(found.voxels, found.error, strict=True))
        print(f"{name:28} {steps}  {'warned' * found.is_notable:6}  {correlation(fast, slow):.3f} -> {correlation(fast, back):.3f}")
    print(f"\n{'noise':>6} {'false':>6} {'found, of one pixel':>20}   of {TURNS} images of {EDGE} x {EDGE}")
    for noise in (1, 4, 8, 16, 64):
        counts = [sum(warned(noise, by, seed) for seed in range(TURNS)) for by in (0, 1)]
        print(f"{noise:6} {counts[0]:6} {counts[1]:20}")


def measured() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, fast scan and slow scan of single channels."""
    for name, path, noisy, channels in (
        ("confocal", "fluo_fmd_confocal.zarr/confocal_bpae", "noisy", 3),
        ("obj1, 1/100", "edx_chondrite_obj1.zarr", "noisy_1e2", 3),
        ("obj1, 1/1000", "edx_chondrite_obj1.zarr", "noisy_1e3", 3),
        ("chm8, 1/100", "edx_chondrite_chm8.zarr", "noisy_1e2", 3),
        ("chm8, 1/1000", "edx_chondrite_chm8.zarr", "noisy_1e3", 3),
        ("beads", "ct_neutron_beads_lower.zarr", "noisy", 0),
    ):
        store: Any = zarr.open_group(DATA / path, mode="r")
        fast, slow = (np.asarray(store[key][...], np.float32) for key in (noisy, "reference"))
        if not channels:
            yield name, fast[0], slow
        for channel in range(channels):
            yield f"{name}, channel {channel}", (fast[0] if fast.ndim > slow.ndim else fast)[channel], slow[channel]


def displaced(fast: np.ndarray, slow: np.ndarray, seed: int = 0) -> Displacement | None:
    return displacement(fast[None, None], slow[None, None], np.ones((1, *slow.shape), bool), np.random.default_rng(seed))


def correlation(fast: np.ndarray, slow: np.ndarray) -> float:
    """Away from the rim, where nothing was to be moved in."""
    inner = tuple(slice(5, -5) for _ in slow.shape)
    return float(np.corrcoef(fast[inner].ravel(), slow[inner].ravel())[0, 1])


def warned(noise: float, by: float, seed: int) -> bool:
    """Whether a generated pair of unit contrast, with so much noise and displaced by so much, is warned of."""
    random = np.random.default_rng(seed)
    field = gaussian_filter(random.normal(size=(EDGE, EDGE)), 1.5)
    field = (field / field.std()).astype(np.float32)
    fast = field + random.normal(0, noise, field.shape).astype(np.float32)
    found = displaced(fast, np.asarray(shift(field, (by, 0), order=3, mode="nearest"), np.float32), seed)
    return found is not None and found.is_notable


if __name__ == "__main__":
    main()
