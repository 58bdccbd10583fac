"""
The verbs of the command line: the part of the config each one reads, and the files it is given.

This table is all that Snakemake and the command line share. It imports nothing heavy.
"""

import json
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from behindthenoise.config import CalibrationConfig, Config, PairsConfig, TrainingConfig, VolumeConfig
from behindthenoise.errors import ConfigError
from behindthenoise.provenance import fingerprint

Value = TypeVar("Value")
VOLUME = "volumes.{volume}"
# what fields hold depends on; where their voxels lie, and how large they are, is `place`'s
PAIRS = tuple(f"pairs.{key}" for key in PairsConfig.model_fields if key not in ("spacing", "unit", "origin"))
OF_VOLUME = tuple(f"{VOLUME}.{key}" for key in VolumeConfig.model_fields if key not in ("spacing", "origin"))
# which axes training may exchange, where the config's sizes of voxels decide it
TURNS = "derived.turns"
TILES = ("inference.tile", "inference.memory_gb")
# what a training's result depends on; its memory and its place decide only where the patches lie
TRAINING = tuple(f"training.{key}" for key in TrainingConfig.model_fields if key not in ("memory_gb", "members_per_gpu"))
# what thresholds depend on; the number of jobs is none of it
CALIBRATION = tuple(f"calibration.{key}" for key in CalibrationConfig.model_fields if key != "jobs")


@dataclass(frozen=True)
class Stage:
    """
    One verb.

    Attributes
    ----------
    help
        What the verb does, in one line.
    sections
        Dotted keys of the config that it reads, or `derived` from it: what makes it run again when it changes.
    paths
        Options that name a file or folder.
    lists
        Options that name several files.
    module
        Module of this package that does it; `run.VERB` where empty.
    makes
        Of the options, the files that the verb writes; the record of its run stands beside the first. Files that no option names,
        because their number depends on the data, are what the module's `run` returns.
    """

    help: str
    sections: tuple[str, ...]
    paths: tuple[str, ...]
    lists: tuple[str, ...] = ()
    module: str = ""
    makes: tuple[str, ...] = ()


STAGES: dict[str, Stage] = {
    "ingest": Stage(
        "read or generate the pairs, split them, measure the scale constants",
        (*PAIRS, "synthetic", "split", "network.radius_max"),
        ("store", "manifest"),
        makes=("manifest",),
    ),
    "wire": Stage("draw the architecture of one member", ("network", "ensemble.seed"), ("pairs", "graph"), makes=("graph",)),
    "check": Stage(
        "refuse what would fail later: too few calibration units, tiles that do not fit",
        (
            *("calibration", "inference", "pairs", "regions", "tokens.components", "tokens.count", "volumes"),
            *("training.batch", "training.patch", "training.memory_gb"),
        ),
        ("pairs", "graph"),
    ),
    "train": Stage(
        "train one member",
        (*TRAINING, TURNS, "ensemble.seed"),
        ("pairs", "graph", "weights", "history", "manifest"),
        makes=("manifest", "weights", "history"),
    ),
    "predict": Stage(
        "predict the calibration and test data with one member, and sample its latents",
        (*TILES, "inference.threads", "inference.precision", "tokens.fit_also_on", "tokens.sample", "tokens.seed"),
        ("pairs", "graph", "weights", "store", "latents", "manifest"),
        ("volumes",),
        makes=("manifest", "latents"),
    ),
    "average": Stage("average the members' quantiles", (), ("store", "manifest"), ("members",), makes=("manifest",)),
    "survey": Stage(
        "fix scores and groups on training voxels, and find units and how far misses reach",
        tuple(f"calibration.{key}" for key in ("score", "unit", "block", "groups", "intensity_bins")),
        ("pairs", "heldout", "labels", "tokens", "rules"),
        ("latents",),
        makes=("rules",),
    ),
    "score": Stage(
        "count how far the truth lies outside the intervals in a share of the calibration data, by unit and group",
        (),
        ("pairs", "heldout", "labels", "rules", "scores"),
        makes=("scores",),
    ),
    "calibrate": Stage(
        "choose the thresholds and write the certificate",
        CALIBRATION,
        ("pairs", "heldout", "labels", "scores", "thresholds", "certificate", "levels"),
        ("shares",),
        makes=("certificate", "thresholds", "levels", "scores"),
    ),
    "evaluate": Stage(
        "measure coverage, width and accuracy on the test data",
        CALIBRATION,
        ("pairs", "heldout", "labels", "scores", "thresholds", "folder", "manifest"),
        ("members",),
        makes=("manifest",),
    ),
    "embed": Stage(
        "fit the projection of the joined latents", ("tokens.components",), ("projection",), ("latents",), makes=("projection",)
    ),
    "tokenize": Stage(
        "cluster the embedded sample into tokens",
        ("tokens.count", "tokens.finest", "tokens.seed"),
        ("projection", "tokens", "stability", "table"),
        ("latents",),
        makes=("tokens", "stability", "table"),
    ),
    "label": Stage(
        "find the token of every held-out voxel",
        (),
        ("projection", "tokens", "store", "manifest"),
        ("members",),
        makes=("manifest",),
    ),
    "fetch": Stage(
        "copy one volume into a store of our own",
        (*OF_VOLUME, *PAIRS, "synthetic"),
        ("pairs", "store", "manifest"),
        makes=("manifest",),
    ),
    "place": Stage(
        "say where the voxels of one volume lie, and how large they are",
        (VOLUME, "pairs"),
        ("pairs", "volume", "geometry"),
        makes=("geometry",),
    ),
    "plan": Stage(
        "choose tiles and shards of one volume and lay out its store",
        (*TILES, "tokens.components"),
        ("volume", "store"),
        ("graphs",),
    ),
    "infer": Stage(
        "run the ensemble over a share of one volume's shards",
        (*TILES, "inference.threads", "inference.precision"),
        ("pairs", "volume", "projection", "store", "manifest"),
        ("graphs", "weights"),
        makes=("manifest",),
    ),
    "finish": Stage(
        "calibrated intervals, tokens and pyramid of one volume",
        ("calibration.support", "inference.spread", "inference.relative_error", "tokens.classes", "tokens.count"),
        ("volume", "geometry", "quantiles", "thresholds", "tokens", "store", "manifest"),
        ("jobs",),
        makes=("manifest",),
    ),
    "describe": Stage(
        "say what the tokens and classes of one volume are made of, and list the connected regions of each class",
        ("tokens.classes", "tokens.count"),
        ("finished", "geometry", "known", "coverage", "folder", "manifest"),
        makes=("manifest",),
    ),
    "regions": Stage(
        "list the regions of one volume where a value is beyond a limit, or intervals are widest, and how sure that is",
        ("regions.{target}", "calibration.support", "inference.relative_error"),
        (
            *("pairs", "heldout", "labels", "rules", "thresholds", "finished", "geometry"),
            *("store", "manifest", "table", "outlines", "view"),
        ),
        makes=("manifest", "table", "outlines", "view"),
    ),
    "overlay": Stage(
        "draw the regions of one volume over its median",
        (),
        ("regions", "view", "picture"),
        module="report.regions",
        makes=("picture",),
    ),
    "publish": Stage(
        "copy one finished volume to another folder or URL",
        ("publish.{volume}", "dataset"),
        ("store", "manifest"),
        makes=("manifest",),
    ),
    "compare": Stage(
        "look for signs that one volume is unlike the calibration data",
        (),
        ("pairs", "heldout", "labels", "scores", "quantiles", "finished", "shift"),
        makes=("shift",),
    ),
    "gather": Stage(
        "collect the tables, facts and slices that the report shows",
        # what a sweep tries says nothing about this ensemble, nor does where volumes are copied to
        tuple(key for key in Config.model_fields if key not in ("sweep", "publish")),
        ("pairs", "evaluation", "certificate", "stability", "content"),
        ("volumes", "geometries", "shifts", "descriptions", "regions", "records", "graphs"),
        makes=("content",),
    ),
    "report": Stage(
        "draw the figures and the page",
        (),
        ("content", "slices", "page"),
        module="report.report",
        makes=("page",),
    ),
    "sweep": Stage(
        "compare the networks of a sweep: a table and a figure of their validation against the swept settings",
        ("network", "training", "sweep"),
        ("table", "figure"),
        ("records",),
        module="report.sweep",
        makes=("table", "figure"),
    ),
}


def module_of(stage: str) -> str:
    """Dotted name, within the package, of the module that does a stage."""
    return STAGES[stage].module or f"run.{stage}"


def specification(config: Config, stage: str, **wildcards: str) -> str:
    """
    Everything that the result of a stage depends on besides its input files, as one canonical line of JSON.

    Parameters
    ----------
    wildcards
        Values for the braces in the stage's section names, e.g. `volume`.
    """
    content = {**config.model_dump(mode="json"), "derived": {"turns": config.turns_by_spacing}}
    sections = {key: _look_up(content, key, wildcards) for key in STAGES[stage].sections}
    return json.dumps({"code": fingerprint(module_of(stage)), "config": sections}, sort_keys=True)


def _look_up(content: Any, key: str, wildcards: dict[str, str]) -> Any:
    """Value at a dotted key, filled part by part, as a volume's name may hold dots; None where a volume has no section."""
    for part in key.split("."):
        content = None if content is None else content.get(part.format(**wildcards))
    return content


@dataclass(frozen=True)
class Spec:
    """A stage's part of the config, read back from `specification`."""

    code: str
    sections: dict[str, Any]

    @classmethod
    def parse(cls, text: str, stage: str) -> "Spec":
        """
        Specification from its JSON text.

        Raises
        ------
        ConfigError
            If the text is not JSON, or names other sections than the stage reads.
        """
        try:
            data = json.loads(text)
            code, sections = data["code"], dict(data["config"])
        except (ValueError, KeyError, TypeError) as problem:
            raise ConfigError(f"--spec of {stage!r} is not a specification: {text[:80]!r}; the workflow writes it") from problem
        if set(sections) != set(STAGES[stage].sections):
            raise ConfigError(
                f"--spec of {stage!r} has the sections {sorted(sections)}; this version reads {sorted(STAGES[stage].sections)}"
            )
        return cls(code, sections)

    def get(self, key: str, kind: type[Value] | GenericAlias) -> Value:
        """
        One section, checked and typed.

        Raises
        ------
        ConfigError
            If the section is absent or does not have this type.
        """
        try:
            return TypeAdapter(kind).validate_json(json.dumps(self.sections[key]))
        except ValidationError as problem:
            raise ConfigError(f"--spec: {key} is {self.sections[key]!r}: {problem.errors()[0]['msg'].lower()}") from None

    def part(self, section: str, kind: type[Value]) -> Value:
        """
        A section of which only some keys stand here, each as `section.key`; the others have their defaults.

        Raises
        ------
        ConfigError
            If a value does not fit.
        """
        return Spec(self.code, {section: self._keys(section)}).get(section, kind)

    def as_data(self) -> dict[str, Any]:
        """Plain data for a manifest."""
        return {"code": self.code, "config": self.sections}

    def find(self, key: str, kind: type[Value]) -> Value | None:
        """One section, or None where the config has none."""
        return None if self.sections[key] is None else self.get(key, kind)

    def find_part(self, section: str, kind: type[Value]) -> Value | None:
        """As `part`, or None where the config has no such section."""
        return self.part(section, kind) if any(value is not None for value in self._keys(section).values()) else None

    def _keys(self, section: str) -> dict[str, Any]:
        return {key.removeprefix(f"{section}."): value for key, value in self.sections.items() if key.startswith(f"{section}.")}
