"""The whole configuration, and which of its sections fit together."""

from itertools import permutations

from pydantic import Field, model_validator

from behindthenoise import remote
from behindthenoise.config.calibration import CalibrationConfig
from behindthenoise.config.data import PairsConfig, SyntheticConfig, VolumeOrPath, alike
from behindthenoise.config.inference import InferenceConfig
from behindthenoise.config.location import Source, TargetOrPath
from behindthenoise.config.network import EnsembleConfig, NetworkConfig
from behindthenoise.config.regions import RegionConfig
from behindthenoise.config.section import Name, Section, Space
from behindthenoise.config.split import SplitConfig
from behindthenoise.config.sweep import Point, SweepConfig
from behindthenoise.config.tokens import TokensConfig
from behindthenoise.config.training import TrainingConfig


class Config(Section):
    """Everything that a run depends on."""

    dataset: Name = Field(description="Name of the run; its results stand in results/{dataset}.")
    pairs: PairsConfig | None = Field(default=None, description="Fast and slow scans to learn from; or `synthetic`.")
    synthetic: SyntheticConfig | None = Field(default=None, description="Generated pairs instead of `pairs`.")
    volumes: dict[Name, VolumeOrPath] = Field(
        default_factory=dict, description="Fields and volumes to denoise besides the training field itself."
    )
    publish: dict[Name, TargetOrPath] = Field(
        default_factory=dict,
        description="Finished volumes to copy elsewhere, by name, e.g. {large: s3://bucket/large.ome.zarr}; `field` is that of the "
        "pairs.",
    )
    split: SplitConfig = Field(default_factory=SplitConfig, description="Train, calibration, test.")
    network: NetworkConfig = Field(default_factory=NetworkConfig, description="The random networks.")
    ensemble: EnsembleConfig = Field(default_factory=EnsembleConfig, description="The ensemble.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Training of a member.")
    calibration: CalibrationConfig = Field(default_factory=CalibrationConfig, description="Calibration.")
    tokens: TokensConfig = Field(default_factory=TokensConfig, description="Tokens.")
    inference: InferenceConfig = Field(default_factory=InferenceConfig, description="Inference.")
    regions: dict[Name, RegionConfig] = Field(
        default_factory=dict,
        description="Lists of regions of every volume, by name, e.g. {iron: {channel: Fe, above: 0.25}, "
        "unsure: {channel: Fe, widest: 0.01}}.",
    )
    sweep: SweepConfig = Field(default_factory=SweepConfig, description="What `snakemake sweep` compares.")

    @model_validator(mode="after")
    def _parts_fit(self) -> "Config":
        if (self.pairs is None) == (self.synthetic is None):
            raise ValueError("the config has either `pairs` (measured) or `synthetic` (generated), not both and not neither")
        for name, volume in self.volumes.items():
            if name.endswith(".ome.zarr"):
                raise ValueError(f"volume name {name!r} ends like a store; leave .ome.zarr out")
            if name == "field":
                raise ValueError("volume name 'field' is taken by the training field itself; choose another")
            if volume.synthetic is not None and self.synthetic is None:
                raise ValueError(f"volume {name!r} is synthetic but the pairs are measured; give it `noisy`")
            if volume.synthetic is not None and self.synthetic is not None and len(volume.synthetic) != len(self.synthetic.shape):
                raise ValueError(f"volume {name!r} has shape {list(volume.synthetic)}, the pairs {list(self.synthetic.shape)}")
        gap = self.split.gap
        field = 2 * self.network.radius_max + 1
        if self.split.by != "image" and isinstance(gap, int) and gap < field:
            raise ValueError(
                f"split.gap {gap} is smaller than the receptive field of {field} voxels (2 network.radius_max + 1), so training "
                "and calibration would share voxels; use auto, a wider gap or a smaller network.radius_max"
            )
        return self

    @property
    def turns_by_spacing(self) -> tuple[Space, ...] | None:
        """
        What `training.turns: auto` means where `pairs.spacing` decides it; None where the files do, if anybody.

        Square pixels decide nothing, as networks take them for granted: whoever gives their size afterwards trains nothing again.
        """
        if self.training.turns != "auto" or self.pairs is None or not self.pairs.spacing:
            return None
        chosen = alike(self.pairs.spacing)
        return None if set(chosen) == {"y", "x"} == set(self.pairs.spacing) else tuple(chosen)

    @model_validator(mode="after")
    def _turns_exchange_what_is_alike(self) -> "Config":
        turns, spacing = self.training.turns, self.pairs.spacing if self.pairs is not None else {}
        known = {axis: spacing[axis] for axis in turns if axis in spacing} if isinstance(turns, tuple) else {}
        if len(alike(known)) < len(known):
            steps = ", ".join(f"{axis} {step:g}" for axis, step in known.items())
            raise ValueError(f"training.turns would exchange axes of different spacing ({steps}); use auto or none")
        return self

    @model_validator(mode="after")
    def _published_volumes_exist(self) -> "Config":
        for name in self.publish:
            if name != "field" and name not in self.volumes:
                raise ValueError(
                    f"publish names the volume {name!r}, which does not exist; there are {', '.join(['field', *self.volumes])}"
                )
        places = {name: remote.absolute(target.path) for name, target in self.publish.items()}
        for (one, outer), (other, inner) in permutations(places.items(), 2):
            if f"{inner}/".startswith(f"{outer}/"):
                raise ValueError(f"publish copies {one!r} to {outer!r} and {other!r} to {inner!r}; give each a place of its own")
        return self

    @model_validator(mode="after")
    def _lists_and_records_have_names_of_their_own(self) -> "Config":
        if ends := [name for name in self.regions if name.endswith(".run")]:
            raise ValueError(f"regions names a list {ends[0]!r}, and records of runs end like that; leave .run out")
        return self

    @model_validator(mode="after")
    def _volumes_that_tokens_are_fitted_on_exist(self) -> "Config":
        if unknown := [name for name in self.tokens.fit_also_on if name not in self.volumes]:
            there = ", ".join(self.volumes) or "none"
            raise ValueError(
                f"tokens.fit_also_on names the volume {unknown[0]!r}, which does not exist; in `volumes` there are: {there}"
            )
        return self

    @model_validator(mode="after")
    def _sweep_keeps_the_split(self) -> "Config":
        for name, point in self.sweep_points().items():
            if point.network.radius_max > self.network.radius_max:
                raise ValueError(
                    f"setting {name} of sweep has a network.radius_max above the config's own {self.network.radius_max}, for which "
                    "the gap between training and calibration is made; raise that one, or sweep smaller ones"
                )
        return self

    def sweep_points(self) -> dict[str, Point]:
        """Settings of the sweep by name."""
        return self.sweep.points(self.network, self.training)

    def sources(self) -> list[tuple[str, Source]]:
        """Every source with the key that names it."""
        found: list[tuple[str, Source | None]] = []
        if self.pairs is not None:
            found += [("pairs.noisy", self.pairs.noisy), ("pairs.clean", self.pairs.clean), ("pairs.mask", self.pairs.mask)]
        for name, volume in self.volumes.items():
            found += [(f"volumes.{name}.noisy", volume.noisy), (f"volumes.{name}.mask", volume.mask)]
        return [(key, source) for key, source in found if source is not None]
