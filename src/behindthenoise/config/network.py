"""The sections `network` and `ensemble`: what the members are drawn from, and how many there are."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from behindthenoise.config.section import Flag, Int, Real, Section

LEAST_UNET_RADIUS = 5


def _choices(value: object) -> object:
    """One number may stand for a list with one choice."""
    return (value,) if isinstance(value, int) else value


class NetworkConfig(Section):
    """The architectures that members are drawn from."""

    kind: Literal["smsnet", "unet"] = Field(
        default="smsnet",
        description="smsnet: randomly wired, dilated, mixed-scale networks; unet: U-Nets of random size, for comparison.",
    )
    depth: Int = Field(default=10, ge=1, le=500, description="smsnet: hidden nodes, the one knob that usually needs tuning.")
    width: Annotated[
        tuple[Annotated[Int, Field(ge=1)], ...],
        BeforeValidator(_choices, json_schema_input_type=tuple[Int, ...] | Int),
        Field(min_length=1),
    ] = Field(
        default=(8,),
        description="smsnet: channels of an edge, or a list to draw from; unet: channels at full resolution are 1 to 8 times that.",
    )
    dilations: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        default=(1, 2, 3, 4), min_length=1, description="smsnet: dilations to draw from."
    )
    dilation_by: Literal["node", "edge"] = Field(
        default="node",
        description="smsnet: node draws one for all edges that leave a node (few, wide convolutions: fast), edge one for each.",
    )
    radius_max: Int = Field(
        default=16,
        ge=1,
        description="Bound on the receptive radius in voxels: sets the halo of a tile and the gap of the split.",
    )
    parameters_max: Int | None = Field(default=None, ge=1, description="Bound on the parameters of a network; null: none.")
    skip_decay: Real = Field(default=0.5, ge=0, le=500, description="smsnet: alpha, a skip over d nodes has weight exp(-alpha d).")
    degree_decay: Real = Field(default=0.5, ge=0, le=50, description="smsnet: gamma, an out-degree k has weight k^-gamma.")
    degree_min: Int = Field(default=1, ge=1, description="smsnet: least out-degree of a hidden node to other hidden nodes.")
    degree_max: Int = Field(default=5, ge=1, description="smsnet: largest out-degree of a hidden node to other hidden nodes.")
    input_share: Real = Field(default=0.25, ge=0, le=1, description="smsnet: share of the optional nodes that also see the input.")
    output_share: Real = Field(
        default=0.25, ge=0, le=1, description="smsnet: share of the optional nodes that also feed the latent."
    )
    input_output: Flag = Field(
        default=False,
        description="smsnet: whether the input itself feeds the latent; the heads see it anyway, and tokens get speckled by it.",
    )
    latent: Int = Field(default=8, ge=1, description="Length of the latent vector of a voxel.")
    head: Int = Field(default=16, ge=1, description="Hidden channels of the three quantile heads together.")

    @model_validator(mode="after")
    def _graphs_exist(self) -> "NetworkConfig":
        if self.degree_min > self.degree_max:
            raise ValueError(f"degree_min {self.degree_min} is larger than degree_max {self.degree_max}; lower it")
        if self.kind == "unet" and self.radius_max < LEAST_UNET_RADIUS:
            raise ValueError(f"radius_max {self.radius_max} is smaller than that of any U-Net; allow at least {LEAST_UNET_RADIUS}")
        if self.kind == "smsnet" and self.depth > 1 and 1 + min(self.dilations) > self.radius_max:
            raise ValueError(
                f"radius_max {self.radius_max} leaves no room for an edge of the least dilation {min(self.dilations)} between "
                f"hidden nodes; allow at least {1 + min(self.dilations)}"
            )
        return self


class EnsembleConfig(Section):
    """How many networks, and from which seed."""

    size: Int = Field(default=20, ge=1, description="Members; raising it trains only the new ones.")
    seed: Int = Field(default=2025, ge=0, description="Member i depends on (seed, i) alone.")
