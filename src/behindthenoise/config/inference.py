"""The section `inference`: how whole fields and volumes are processed."""

from typing import Annotated, Literal

from pydantic import Field

from behindthenoise.config.section import Flag, Int, Real, Section


class InferenceConfig(Section):
    """How whole fields and volumes are processed."""

    jobs: Int = Field(default=2, ge=1, description="Jobs that share one volume.")
    tile: Annotated[Int, Field(ge=16, multiple_of=16)] | Literal["auto"] = Field(
        default="auto", description="Edge of a tile's core in voxels, a multiple of 16; auto fits `memory_gb`."
    )
    memory_gb: Real = Field(default=4.0, gt=0, description="Memory that one job may use.")
    threads: Int = Field(default=1, ge=1, description="CPU threads of one job.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Arithmetic of the convolutions when networks predict; heads and averages stay in float32."
    )

    spread: Flag = Field(default=False, description="Finished volumes also hold how much the members' medians differ.")
    relative_error: Real = Field(
        default=0.0,
        ge=0,
        lt=0.1,
        description="Largest relative error of the values in finished volumes, e.g. 1e-4, which halves the files; 0 stores float32 "
        "as it is. Intervals are rounded outwards, so that they hold what they held.",
    )

    @property
    def memory_bytes(self) -> int:
        """Memory that one job may use, in bytes."""
        return int(self.memory_gb * 1e9)

    @property
    def tile_edge(self) -> int | None:
        """Edge asked for; None leaves the choice to the program."""
        return None if self.tile == "auto" else self.tile
