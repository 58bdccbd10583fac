"""Colours that keep their meaning: those of tokens, and the embedding in false colours."""

from colorsys import hls_to_rgb
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from behindthenoise.core.tokens import TokenTree

SHOWN = 3  # components, as red, green and blue
CUT_PERCENT = 0.5  # of the sample, at either end of a component, lie beyond what colours can tell apart
# Okabe and Ito's seven colours, then greedily the colour farthest from all before it, and from white and light grey, in
# OKLab: the least of the distances as seen with normal vision, protanopia and deuteranopia (Machado et al. 2009).
_HEX = (
    "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 5a1e00 002d78 0000ff 784b4b 5a87ff 3c2db4 96c396 b42d87 1e3c4b "
    "b40f00 a5ffa5 0f69f0 ff4b69 5ad2ff 96e187 d21ec3 006978 ff78d2 f0c300 c34b3c e1b4d2 d28700 4b5a00 1ea5ff 4b3c87 "
    "780f2d 78c35a 0000a5 78f0ff 5a3c69 a56996 4b78d2 87b4a5 691ed2 00874b 5a4ba5 c3d2b4 78004b b478c3 d2f0d2 4bff78"
)
PALETTE = tuple(f"#{colour}" for colour in _HEX.split())

NO_DATA, DARKEST, MIDDLE, BRIGHTEST = 0, 1, 128, 255


def colour(place: int) -> str:
    """One of many distinct colours, those that are told apart best first: from a palette, then a golden angle of hue apart."""
    if place < len(PALETTE):
        return PALETTE[place]
    shade = hls_to_rgb(place * 0.618034 % 1, 0.45 + 0.2 * (place % 2), 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)


def token_colours(tree: TokenTree, count: int) -> list[str]:
    """
    Colour of each of so many tokens of a tree.

    A token has that of its largest finest token, at every level of detail: of two tokens that become one, the larger one's stays.
    So few tokens have the colours that are told apart best, also by the colour-blind.
    """
    places: dict[int, int] = {}
    for level in range(1, len(tree.levels) + 1):
        for finest in tree.largest(level).tolist():
            places.setdefault(finest, len(places))
    return [colour(places[finest]) for finest in tree.largest(count).tolist()]


def rgba(colour: str) -> tuple[int, int, int, int]:
    """An opaque colour, as OME-Zarr has it."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue, 255


@dataclass(frozen=True, eq=False)
class FalseColours:
    """
    How the first components of an embedding become red, green and blue, in every volume alike.

    Attributes
    ----------
    low, high
        Ends of the scale of each component that is shown.
    explained
        Share of the latents' variance that each of them holds.
    """

    low: Float32[np.ndarray, " component"]
    high: Float32[np.ndarray, " component"]
    explained: Float[np.ndarray, " component"]

    @classmethod
    def of_sample(cls, embedding: Float[np.ndarray, " n component"], explained: Float[np.ndarray, " component"]) -> "FalseColours":
        """Scales that leave out half a percent of the sample at either end."""
        low, high = np.percentile(embedding[:, :SHOWN].astype(np.float32), (CUT_PERCENT, 100 - CUT_PERCENT), axis=0)
        return cls(low.astype(np.float32), high.astype(np.float32), explained[:SHOWN])

    def of(self, embedding: Float[np.ndarray, " component *space"]) -> UInt8[np.ndarray, " 3 *space"]:
        """
        Red, green and blue of every voxel, from 1 to 255; 0 where masked (NaN).

        Where there are fewer than three components, the others stand in the middle; so does one that does not vary.
        """
        found = np.full((SHOWN, *embedding.shape[1:]), MIDDLE, np.uint8)
        masked = np.isnan(embedding[0])
        for component, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if high > low:
                share = (np.nan_to_num(embedding[component].astype(np.float32)) - low) / (high - low)
                found[component] = np.rint(DARKEST + (BRIGHTEST - DARKEST) * np.clip(share, 0, 1))
        found[:, masked] = NO_DATA
        return found


def mean_colour(values: UInt8[np.ndarray, " *shape"], axis: tuple[int, ...] | None = None) -> UInt8[np.ndarray, " *rest"]:
    """Mean over the voxels that carry data, 0 where none does; dask calls it without axes to see what type it returns."""
    counts = (values != NO_DATA).sum(axis=axis)
    return np.asarray(np.rint(values.sum(axis=axis, dtype=np.float64) / np.maximum(counts, 1)), dtype=np.uint8)
