"""The section `regions`: where to measure again."""

from pydantic import Field, model_validator

from behindthenoise.config.section import Fractional, Int, Real, Section


class RegionConfig(Section):
    """Regions worth a second measurement: where the true value lies beyond a limit, or where intervals are widest."""

    channel: str = Field(description="Channel to look at, by name.")
    above: Real | None = Field(default=None, description="Mark where the true value is larger than this, in pairs.value_unit.")
    below: Real | None = Field(default=None, description="Mark where the true value is smaller than this.")
    widest: Fractional | None = Field(
        default=None, description="Mark this share of the area, where intervals are widest, whatever the value, e.g. 0.01."
    )
    level: Fractional = Field(
        default=0.1, description="above, below: share of the marked area that may be false, in expectation; widest: not used."
    )
    smallest: Int = Field(default=9, ge=1, description="Voxels of the smallest region that is listed; smaller ones are left out.")

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> "RegionConfig":
        asked = [name for name in ("above", "below", "widest") if getattr(self, name) is not None]
        if len(asked) != 1:
            raise ValueError(f"exactly one of above, below and widest is needed, not {', '.join(asked) or 'none'}")
        return self
