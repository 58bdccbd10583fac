"""Distinct colours."""

from colorsys import hls_to_rgb

# Okabe and Ito's seven colours, then greedily the colour farthest from all before it, and from white and light grey, in
# OKLab: the least of the distances as seen with normal vision, protanopia and deuteranopia (Machado et al. 2009).
_HEX = (
    "e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 5a1e00 002d78 0000ff 784b4b 5a87ff 3c2db4 96c396 b42d87 1e3c4b "
    "b40f00 a5ffa5 0f69f0 ff4b69 5ad2ff 96e187 d21ec3 006978 ff78d2 f0c300 c34b3c e1b4d2 d28700 4b5a00 1ea5ff 4b3c87 "
    "780f2d 78c35a 0000a5 78f0ff 5a3c69 a56996 4b78d2 87b4a5 691ed2 00874b 5a4ba5 c3d2b4 78004b b478c3 d2f0d2 4bff78"
)
PALETTE = tuple(f"#{colour}" for colour in _HEX.split())


def colour(place: int) -> str:
    """One of many distinct colours, those that are told apart best first: from a palette, then a golden angle of hue apart."""
    if place < len(PALETTE):
        return PALETTE[place]
    shade = hls_to_rgb(place * 0.618034 % 1, 0.45 + 0.2 * (place % 2), 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)


def rgba(colour: str) -> tuple[int, int, int, int]:
    """An opaque colour, as OME-Zarr has it."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue, 255
