"""The section `training`: how one member learns."""

from typing import Literal

from pydantic import Field, field_validator

from behindthenoise.config.section import Flag, Fractional, Int, Real, Section, Space


class TrainingConfig(Section):
    """How one member is trained."""

    quantiles: tuple[Fractional, Fractional, Fractional] = Field(
        default=(0.05, 0.5, 0.95), description="Levels of the lower, the median (0.5) and the upper head."
    )
    steps: Int = Field(default=2000, ge=1, description="Optimiser steps at most.")
    batch: Int = Field(default=2, ge=1, description="Patches in a step.")
    patch: Int = Field(default=64, ge=4, description="Edge of a training patch in voxels; shorter axes are used whole.")
    learning_rate: Real = Field(default=0.01, gt=0, description="Peak of the schedule: a short rise, then half a cosine.")
    weight_decay: Real = Field(default=0.0001, ge=0, description="Decoupled weight decay.")
    normalisation: Literal["none", "weight", "batch"] = Field(
        default="none",
        description=(
            "none: one data-dependent initialisation; weight: standardised weights; batch: batch statistics while training, frozen "
            "at its end. All are folded into plain convolutions, so that no result depends on a tile."
        ),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic of the convolutions in training on a GPU; weights and heads, and all on a CPU, stay float32.",
    )
    border_weight: Real = Field(
        default=0.5, ge=0, le=1, description="Weight in the loss of a patch's border, where the network sees padding."
    )
    validation: Fractional = Field(
        default=0.15, description="Share of the training blocks or images that a member keeps to choose its best state."
    )
    patience: Int = Field(
        default=20, ge=1, description="Validations, of 20 in a training, without improvement before it stops; 20 never stops early."
    )
    flips: Flag = Field(default=True, description="Augment by random flips along every axis.")
    turns: Literal["auto", "none"] | tuple[Space, ...] = Field(
        default="auto",
        description=(
            "Augment by random quarter turns: auto among the axes of equal spacing; none; or the axes that may be exchanged, e.g. "
            "[y, x]."
        ),
    )
    memory_gb: Real = Field(
        default=4.0,
        gt=0,
        description="Memory for the pairs and patches of one training; what is larger is read from disk batch by batch.",
    )
    members_per_gpu: Int = Field(
        default=1,
        ge=1,
        description="Trainings that share one GPU, where members are too small to fill it; prediction shares with none.",
    )
    threads: Int = Field(default=1, ge=1, description="CPU threads of one training; part of what makes bits repeatable.")

    @field_validator("quantiles")
    @classmethod
    def _levels_rise(cls, levels: tuple[float, float, float]) -> tuple[float, float, float]:
        if not levels[0] < levels[1] < levels[2]:
            raise ValueError(f"quantiles {list(levels)} must rise: lower, median, upper")
        if levels[1] != 0.5:
            raise ValueError(f"quantiles {list(levels)} must have 0.5 in the middle, the median; the outer two are free")
        return levels
