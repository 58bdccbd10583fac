"""U-Nets of random size with the contract of the sparse graphs, for comparison."""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from behindthenoise.config import NetworkConfig
from behindthenoise.core.shapes import Shape
from behindthenoise.errors import GraphError

LEVELS = (1, 2, 3, 4)
REPEATS = (1, 2, 3)
WIDENINGS = (1, 2, 4, 8)  # times `network.width`


@dataclass(frozen=True)
class UNet:
    """
    Sizes of one U-Net.

    Attributes
    ----------
    levels
        How often the resolution is halved.
    repeats
        Convolutions at every level on the way down, and again on the way up.
    width
        Channels at full resolution; each level has twice those of the one above.
    """

    levels: int
    repeats: int
    width: int

    kind = "unet"

    @property
    def stride(self) -> int:
        """Tiles must start at multiples of this, or pooling would group other voxels."""
        return int(2**self.levels)

    @property
    def radius(self) -> int:
        """
        Receptive radius of the latent in voxels, an upper bound over all positions within a stride.

        A convolution adds one voxel of its own resolution; pooling looks one finer voxel ahead, and repeating a coarse voxel
        one finer voxel back.
        """
        back = ahead = 0
        for level in range(self.levels):
            back, ahead = back + self.repeats * 2**level, ahead + self.repeats * 2**level + 2**level
        back, ahead = back + self.repeats * self.stride, ahead + self.repeats * self.stride
        for level in reversed(range(self.levels)):
            back, ahead = back + 2**level + self.repeats * 2**level, ahead + self.repeats * 2**level
        return max(back, ahead)

    def features(self, in_channels: int) -> int:  # noqa: ARG002  # the contract; a graph may let the input itself enter
        """Channels that enter the latent."""
        return self.width

    def shapes(self, in_channels: int) -> list[Shape]:
        """Every convolution, in the order in which it is computed."""
        found: list[Shape] = []
        entering = in_channels
        for level in [*range(self.levels + 1), *reversed(range(self.levels))]:
            leaving = self.width * 2**level
            rising = len(found) > self.repeats * self.levels and level < self.levels
            for repeat in range(self.repeats):
                skipped = leaving if rising and repeat == 0 else 0
                found.append(Shape(entering + skipped, leaving, scale=2**level))
                entering = leaving
        return found

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "UNet":
        """
        U-Net from what `as_data` gave.

        Raises
        ------
        GraphError
            If a size is not positive.
        """
        sizes = [int(data[key]) for key in ("levels", "repeats", "width")]
        if min(sizes) < 1:
            raise GraphError(
                f"U-Net has {sizes[0]} levels, {sizes[1]} repeats and width {sizes[2]}; each is at least 1; draw it again"
            )
        return cls(*sizes)


def draw(config: NetworkConfig, random: np.random.Generator) -> UNet:
    """
    One of the U-Nets that keep the bound on the receptive radius, each as likely as the next.

    References
    ----------
    Ronneberger, Fischer & Brox (2015), arXiv:1505.04597.
    """
    every = [
        UNet(levels, repeats, factor * width)
        for levels, repeats, factor, width in product(LEVELS, REPEATS, WIDENINGS, sorted(set(config.width)))
    ]
    allowed = [unet for unet in every if unet.radius <= config.radius_max]  # never empty: the config sees to it
    return allowed[int(random.integers(len(allowed)))]
