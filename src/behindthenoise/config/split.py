"""The section `split`: which part of space trains, calibrates and tests."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from behindthenoise.config.section import Fractional, Int, Real, Role, Section, Space


class SplitConfig(Section):
    """Which part of space trains, which calibrates, which tests."""

    by: Literal["image", "block", "region"] = Field(
        default="block",
        description="image: whole images (many needed); block: seeded random blocks of one field; region: as drawn in `regions`.",
    )
    train: Fractional = Field(default=0.5, description="Share of the images or blocks that trains.")
    calibration: Fractional = Field(default=0.25, description="Share that calibrates the intervals.")
    test: Fractional = Field(default=0.25, description="Share that only tests.")
    regions: dict[Role, dict[Space, tuple[Real, Real]]] = Field(
        default_factory=dict,
        description="With `by: region`: for each role the span along each axis, as fractions of the field from 0 to 1.",
    )
    block: Int = Field(
        default=64,
        ge=4,
        description="Edge of a block in voxels; with `by: region`, of those among which a network chooses what it keeps for "
        "validation. Units of the calibration have the edge calibration.block.",
    )
    gap: Int | Literal["auto"] = Field(
        default="auto", description="Voxels left unused between roles; auto is the receptive field, 2 radius_max + 1."
    )
    seed: Int = Field(default=1, ge=0, description="Seed of the drawing of images or blocks.")

    @model_validator(mode="after")
    def _shares_and_regions_fit(self) -> "SplitConfig":
        total = self.train + self.calibration + self.test
        if self.by != "region" and total > 1 + 1e-9:
            raise ValueError(
                f"train {self.train} + calibration {self.calibration} + test {self.test} = {total:g} of the data; "
                "the three shares may add up to 1 at most"
            )
        if (self.by == "region") != bool(self.regions):
            raise ValueError("`regions` belongs to `by: region`, which needs it for train, calibration and test")
        if self.regions and set(self.regions) != set(get_args(Role)):
            raise ValueError(f"regions are given for {sorted(self.regions)}; train, calibration and test are all needed")
        for role, spans in self.regions.items():
            for axis, (start, stop) in spans.items():
                if not 0 <= start < stop <= 1:
                    raise ValueError(f"region {role} spans {axis} from {start} to {stop}; fractions rise within 0 to 1")
        if isinstance(self.gap, int) and self.gap < 0:
            raise ValueError(f"gap {self.gap} is negative; use auto or a number of voxels")
        return self
