"""Fast scans that do not lie where the slow scan does, which networks would learn as if it belonged to the material."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from behindthenoise.core.registration import Displacement, displacement

ALONE, TOGETHER = 16, 64  # images that are looked at, one by one or where they are too small for that


def displaced(
    noisy: Float[np.ndarray, " image scan c *space"],
    clean: Float[np.ndarray, " image c *space"],
    trains: Bool[np.ndarray, " image *space"],
    space: Sequence[str],
) -> list[str]:
    """
    Scans that are notably displaced against the slow one, and by how much, in words; as far as training voxels tell.

    Of many images some are looked at, spread over all of them. The images of a scan are taken together where none is large enough
    to tell by itself.
    """
    images = [int(image) for image in np.flatnonzero(trains.any(axis=tuple(range(1, trains.ndim))))]
    found: dict[str, Displacement | None] = {}
    for scan in range(noisy.shape[1]):
        alone = {}
        for image in evenly(images, ALONE):
            one = slice(image, image + 1)
            name = f"scan {scan}" + f" of image {image}" * (len(trains) > 1)
            alone[name] = displacement(noisy[one, scan], clean[one], trains[one], np.random.default_rng(image))
        if not any(alone.values()):
            some = evenly(images, TOGETHER)
            alone = {f"scan {scan}": displacement(noisy[some, scan], clean[some], trains[some], np.random.default_rng(0))}
        found |= alone
    return [
        f"the slow scan against {name} by {in_words(one, space)} voxels"
        for name, one in found.items()
        if one is not None and one.is_notable
    ]


def in_words(one: Displacement, space: Sequence[str]) -> str:
    """A displacement and its error in words."""
    steps = zip(space, one.voxels, one.error, strict=True)
    return ", ".join(f"{axis} {size:+.2f} ± {error:.2f}" for axis, size, error in steps)


def evenly(images: Sequence[int], most: int) -> list[int]:
    """So many of the images at most, evenly over all of them."""
    places = np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)
    return [images[place] for place in places]
