"""What a network is before it has weights: its wiring, its channels, and what it will cost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from behindthenoise.config import NetworkConfig
from behindthenoise.core import graph, unet
from behindthenoise.core.shapes import Shape
from behindthenoise.errors import GraphError

Wiring = graph.Graph | unet.UNet
VERSION = 2
READERS: dict[str, Callable[[dict[str, Any]], Wiring]] = {"smsnet": graph.Graph.from_data, "unet": unet.UNet.from_data}
DRAWERS: dict[str, Callable[[NetworkConfig, np.random.Generator], Wiring]] = {"smsnet": graph.draw, "unet": unet.draw}
ATTEMPTS = 200  # drawings until a bound on the parameters counts as out of reach


@dataclass(frozen=True)
class Architecture:
    """
    One network without weights; `graph.json` is this.

    Attributes
    ----------
    wiring
        A sparse graph, or the sizes of a U-Net.
    ndim
        Spatial dimensions, 2 or 3.
    in_channels, out_channels
        Channels of the noisy input and of the clean image.
    latent, head
        Length of the latent vector; hidden channels of the heads.
    """

    wiring: Wiring
    ndim: int
    in_channels: int
    out_channels: int
    latent: int
    head: int

    @property
    def radius(self) -> int:
        """Receptive radius in voxels."""
        return self.wiring.radius

    @property
    def halo(self) -> int:
        """Voxels that a tile reads around its core: the radius, up to a multiple of the stride."""
        stride = self.wiring.stride
        return -(-self.radius // stride) * stride

    def shapes(self) -> list[Shape]:
        """Every convolution: those of the wiring, then encoder, mixer and heads, which are 1x1."""
        return [
            *self.wiring.shapes(self.in_channels),
            Shape(self.wiring.features(self.in_channels), self.latent, edge=1),
            Shape(self.latent + self.in_channels, self.head, edge=1),
            Shape(self.head + self.in_channels, 3 * self.out_channels, edge=1),
        ]

    @property
    def parameters(self) -> int:
        """Trained numbers of the folded network."""
        return sum(shape.parameters(self.ndim) for shape in self.shapes())

    @property
    def operations(self) -> float:
        """Multiply-adds for each voxel."""
        return sum(shape.operations(self.ndim) for shape in self.shapes())

    def as_data(self) -> dict[str, Any]:
        """Plain data for `graph.json`; `radius` and `parameters` are there for people."""
        return {
            "version": VERSION,
            "kind": self.wiring.kind,
            "ndim": self.ndim,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent": self.latent,
            "head": self.head,
            "radius": self.radius,
            "parameters": self.parameters,
            "wiring": self.wiring.as_data(),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Architecture":
        """
        Architecture from what `as_data` gave.

        Raises
        ------
        GraphError
            If the data are of another version, incomplete, or describe no network.
        """
        if data.get("version") != VERSION or data.get("kind") not in READERS:
            raise GraphError(
                f"graph has version {data.get('version')!r} and kind {data.get('kind')!r}; this program reads version {VERSION} "
                f"and kinds {', '.join(READERS)}; draw it again"
            )
        if data.get("ndim") not in (2, 3):
            raise GraphError(f"graph has {data.get('ndim')!r} spatial dimensions; networks have 2 or 3; draw it again")
        try:
            return cls(
                READERS[data["kind"]](data["wiring"]),
                *(int(data[key]) for key in ("ndim", "in_channels", "out_channels", "latent", "head")),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise GraphError(f"graph is incomplete ({problem}); draw it again") from problem


def generator(seed: int, member: int) -> np.random.Generator:
    """Random numbers for the architecture of one member; they depend on (seed, member) alone."""
    return np.random.default_rng([seed, member])


def draw(config: NetworkConfig, random: np.random.Generator, *, ndim: int, channels: int) -> Architecture:
    """
    Random architecture within the bounds on receptive radius and parameters.

    The radius is bounded by construction; for the parameters, drawings that have too many are thrown away.

    Raises
    ------
    GraphError
        If no drawing keeps the bounds; says what the drawings had.
    """
    seen: list[int] = []
    for _ in range(ATTEMPTS):
        drawn = Architecture(DRAWERS[config.kind](config, random), ndim, channels, channels, config.latent, config.head)
        if config.parameters_max is None or drawn.parameters <= config.parameters_max:
            return drawn
        seen.append(drawn.parameters)
    raise GraphError(
        f"none of {ATTEMPTS} networks drawn has at most network.parameters_max {config.parameters_max} parameters, they have "
        f"{min(seen)} to {max(seen)}; allow more, or use a smaller network.depth, width or latent"
    )
