"""The section `calibration`: what intervals promise, and how."""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator

from behindthenoise.config.section import Fractional, Int, Real, Section


class CalibrationConfig(Section):
    """How intervals are made to hold."""

    coverage: Fractional = Field(default=0.9, description="Share of the new voxels that must lie inside their interval.")
    score: Literal["auto", "cqr", "cqr-r", "cqr-m", "asymmetric", "ensemble"] = Field(
        default="auto",
        description="How far a value lies outside its interval. cqr: in units of the image; cqr-r, cqr-m: in widths; asymmetric: "
        "below and above each for itself; ensemble: in widths plus the members' disagreement. auto: asymmetric where "
        "pairs.value_unit is counts, else cqr.",
    )
    guarantee: Literal["pac", "crc", "tolerance", "rcps", "pooled"] = Field(
        default="pac",
        description="What is promised (docs/guarantees.md). pac: mean coverage of new units or voxels, except with probability "
        "`failure`; crc: expected coverage, any dependence; tolerance: most units are covered each; rcps: as pac, without "
        "approximations, and wide; pooled: nothing, where voxels depend on each other.",
    )
    failure: Fractional = Field(default=0.1, description="pac, rcps: accepted probability that the calibration data mislead.")
    shortfall: Fractional = Field(
        default=0.1, description="tolerance: accepted share of new units that are covered less than `coverage`."
    )
    unit: Literal["auto", "image", "block"] = Field(
        default="auto",
        description="What counts as one sample. auto: images where five or more calibrate; else blocks, and for pac all voxels of "
        "the field, counted as what their dependence leaves of them.",
    )
    block: Annotated[Int, Field(ge=4)] | Literal["auto"] = Field(
        default="auto",
        description="Edge of a calibration block in voxels; auto is three times the distance over which misses are correlated.",
    )
    groups: tuple[Literal["intensity", "token"], ...] = Field(
        default=("token",),
        description="Besides the channel, each of these has its own thresholds: bins of predicted median, tokens, or both crossed.",
    )
    intensity_bins: Int = Field(
        default=5, ge=2, le=50, description="Bins of the predicted median, equally filled on training voxels."
    )
    support: tuple[Real | None, Real | None] = Field(
        default=(None, None), description="Least and largest possible value of the clean image, e.g. [0, null] for counts."
    )
    jobs: Int = Field(default=1, ge=1, description="Jobs that share the scoring; thresholds do not depend on it.")

    @field_validator("support")
    @classmethod
    def _support_is_not_empty(cls, support: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        least, largest = support
        if least is not None and largest is not None and least >= largest:
            raise ValueError(f"support from {least:g} to {largest:g} is empty; the second number must be larger, or null")
        return support

    @field_validator("groups")
    @classmethod
    def _groups_differ(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(groups)) < len(groups):
            raise ValueError(f"groups {list(groups)} name one twice; name each once")
        return groups

    @property
    def miscoverage(self) -> Fraction:
        """Accepted share of misses, exact as it was written."""
        return 1 - Fraction(str(self.coverage))

    @property
    def allowed_failure(self) -> Fraction:
        """Accepted probability that the calibration data mislead, exact as it was written."""
        return Fraction(str(self.failure))

    @property
    def allowed_shortfall(self) -> Fraction:
        """Accepted share of units that fall short, exact as it was written."""
        return Fraction(str(self.shortfall))
