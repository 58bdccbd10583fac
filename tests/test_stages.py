import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

from behindthenoise import stages
from behindthenoise.config import Config, SplitConfig, TrainingConfig, VolumeConfig, parse
from behindthenoise.errors import ConfigError
from behindthenoise.stages import STAGES, Spec, module_of, specification

CONFIG = parse(
    {
        "dataset": "some",
        "synthetic": {},
        "volumes": {"large": {"synthetic": [96, 96]}},
        "regions": {"bright": {"channel": "channel 0", "above": 2.0}},
        "publish": {"large": "copies/large.ome.zarr"},
    }
)
# What the command line gives a stage besides files.
EXTRAS = {
    "score": {"share": str},
    "infer": {"share": str},
    "wire": {"member": int},
    "train": {"member": int, "memory_gb": float, "members_per_gpu": int},
    "fetch": {"name": str},
    "place": {"name": str},
}


def spec_of(stage):
    return Spec.parse(specification(CONFIG, stage, volume="large", target="bright"), stage)


def sections_read(stage):
    """Sections that the source of a stage's module takes from its specification."""
    source = Path(inspect.getsourcefile(importlib.import_module(f"behindthenoise.{module_of(stage)}"))).read_text()
    named = r"""\(?\[?\s*(?:"([^"]+)"|(VOLUME|TURNS))"""
    whole, parts = (
        {key or getattr(stages, constant) for key, constant in re.findall(rf"spec\.(?:{calls}){named}", source)}
        for calls in ("get|find|sections", "part|find_part")
    )
    return whole | {key for key in STAGES[stage].sections if key.rpartition(".")[0] in parts}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_what_the_command_line_gives_it(stage):
    run = importlib.import_module(f"behindthenoise.{module_of(stage)}").run
    spec, *options = inspect.signature(run).parameters.values()
    kinds = dict.fromkeys(STAGES[stage].paths, Path) | dict.fromkeys(STAGES[stage].lists, list[Path]) | EXTRAS.get(stage, {})
    assert (spec.name, spec.annotation) == ("spec", Spec)
    assert {option.name: option.annotation for option in options} == kinds
    assert {option.kind for option in options} == {inspect.Parameter.KEYWORD_ONLY}
    assert {option.default for option in options} == {inspect.Parameter.empty}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "gather"])
def test_a_stage_reads_the_sections_that_it_declares_and_no_others(stage):
    assert sections_read(stage) == set(STAGES[stage].sections)


@pytest.mark.parametrize("stage", STAGES)
def test_every_section_is_a_key_of_the_configuration(stage):
    for section in STAGES[stage].sections:
        if section.startswith("derived."):
            assert section == stages.TURNS
            continue
        kinds = [Config]
        for part in section.split("."):
            if part.startswith("{"):
                continue
            fields = next(kind.model_fields for kind in kinds if part in kind.model_fields)
            kinds = [kind for kind in stages_types(fields[part].annotation) if hasattr(kind, "model_fields")]


def stages_types(annotation):
    """A type and everything inside its brackets."""
    found = [annotation]
    for inner in getattr(annotation, "__args__", ()):
        found += stages_types(inner)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_specification_is_read_back_as_it_was(stage):
    spec = spec_of(stage)
    content = {**CONFIG.model_dump(mode="json"), "derived": {"turns": CONFIG.turns_by_spacing}}
    for key, value in spec.sections.items():
        expected = content
        for part in key.format(volume="large", target="bright").split("."):
            expected = expected[part] if expected is not None else None
        assert value == expected
    assert spec.as_data() == {"code": spec.code, "config": spec.sections}


@pytest.mark.parametrize("stage", STAGES)
def test_a_specification_is_one_line_that_does_not_change(stage):
    text = specification(CONFIG, stage, volume="large", target="bright")
    assert "\n" not in text
    assert text == specification(Config.model_validate(CONFIG.model_dump()), stage, volume="large", target="bright")


def test_a_setting_changes_the_stages_that_read_it_and_no_others():
    changed = CONFIG.model_copy(update={"training": TrainingConfig(steps=601)})
    found = {
        stage
        for stage in STAGES
        if specification(changed, stage, volume="x", target="x") != specification(CONFIG, stage, volume="x", target="x")
    }
    assert found == {"train", "gather", "sweep"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"memory_gb": 0.1}, {"check", "gather", "sweep"}),  # Snakemake does not compare the check's
        ({"members_per_gpu": 4}, {"gather", "sweep"}),
    ],
    ids=["memory", "sharing"],
)
def test_where_the_patches_of_a_training_lie_trains_nothing_again(change, stages):
    changed = CONFIG.model_copy(update={"training": TrainingConfig(**change)})
    found = {
        stage
        for stage in STAGES
        if specification(changed, stage, volume="x", target="x") != specification(CONFIG, stage, volume="x", target="x")
    }
    assert found == stages


def test_every_other_setting_of_a_training_is_part_of_its_specification():
    read = {key.removeprefix("training.") for key in STAGES["train"].sections if key.startswith("training.")}
    assert read == set(TrainingConfig.model_fields) - {"memory_gb", "members_per_gpu"}
    chosen = TrainingConfig(steps=7, turns=("y", "x"), normalisation="batch", quantiles=(0.1, 0.5, 0.8))
    text = specification(CONFIG.model_copy(update={"training": chosen}), "train")
    assert Spec.parse(text, "train").part("training", TrainingConfig) == chosen


def test_a_setting_of_another_volume_changes_nothing():
    other = parse({**CONFIG.model_dump(mode="json"), "volumes": {"large": {"synthetic": [96, 96]}, "new": {"synthetic": [64, 64]}}})
    for stage in set(STAGES) - {"gather", "check"}:  # the report shows all volumes, the check is compared by nobody
        assert specification(other, stage, volume="large", target="bright") == specification(
            CONFIG, stage, volume="large", target="bright"
        )


def test_the_training_field_has_no_section_of_its_own():
    spec = Spec.parse(specification(CONFIG, "place", volume="field"), "place")
    assert spec.sections[stages.VOLUME] is None
    assert spec.find(stages.VOLUME, dict) is None
    in_parts = Spec.parse(specification(CONFIG, "fetch", volume="field"), "fetch")
    assert in_parts.find_part(stages.VOLUME, VolumeConfig) is None
    in_parts = Spec.parse(specification(CONFIG, "fetch", volume="large"), "fetch")
    assert in_parts.find_part(stages.VOLUME, VolumeConfig) == CONFIG.volumes["large"]


@pytest.mark.parametrize(
    ("spacing", "stages"),
    [
        ({"y": 0.5, "x": 0.5}, {"place", "gather"}),
        ({"y": 0.5, "x": 0.25}, {"place", "gather", "train"}),
        ({"z": 0.5, "y": 0.5, "x": 0.5}, {"place", "gather", "train"}),
    ],
)
def test_networks_hear_of_a_size_of_voxels_only_where_it_decides_what_they_may_turn(spacing, stages):
    measured = {"dataset": "some", "pairs": {"noisy": "noisy.npy", "clean": "clean.npy"}, "volumes": {"large": "large.npy"}}
    plain = parse(measured, check_files=False)
    pairs = {**measured["pairs"], "spacing": spacing, "unit": "um", "origin": {"x": 5}}
    changed = parse({**measured, "pairs": pairs}, check_files=False)
    assert {
        stage
        for stage in set(STAGES) - {"regions", "publish", "check"}  # the check is compared by nobody
        if specification(changed, stage, volume="large") != specification(plain, stage, volume="large")
    } == stages


def test_where_a_volume_lies_concerns_its_own_geometry_alone():
    pairs = {"noisy": "noisy.npy", "clean": "clean.npy"}
    plain, changed = (
        parse({"dataset": "some", "pairs": pairs, "volumes": {"large": {"noisy": "large.npy", **place}}}, check_files=False)
        for place in ({}, {"origin": {"y": 3}, "spacing": {"y": 2, "x": 2}})
    )
    for volume, expected in (("large", {"place", "gather"}), ("field", {"gather"})):
        assert {
            stage
            for stage in set(STAGES) - {"regions", "publish", "check"}
            if specification(changed, stage, volume=volume) != specification(plain, stage, volume=volume)
        } == expected


@pytest.mark.parametrize(
    "edit",
    [
        lambda config: config.pop("split"),
        lambda config: config.update(network={}),
        lambda config: config.clear(),
        lambda config: config.update({"split.by": "image"}),
    ],
    ids=["missing", "extra", "none", "part"],
)
def test_a_specification_with_other_sections_is_refused(edit):
    data = json.loads(specification(CONFIG, "ingest"))
    edit(data["config"])
    with pytest.raises(
        ConfigError,
        match=r"--spec of 'ingest' has the sections \[.*\]; this version reads \['network.radius_max', 'pairs.channels',",
    ):
        Spec.parse(json.dumps(data), "ingest")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"code": "x"}', '{"code": "x", "config": 3}', '{"config": {}}']
)
def test_a_text_that_is_no_specification_is_refused(text):
    with pytest.raises(ConfigError, match=r"--spec of 'average' is not a specification: .*; the workflow writes it"):
        Spec.parse(text, "average")


def test_a_section_comes_as_the_type_that_is_asked_for():
    spec = spec_of("ingest")
    assert spec.get("split", SplitConfig) == CONFIG.split
    assert spec.get("network.radius_max", int) == CONFIG.network.radius_max


def test_a_section_of_the_wrong_type_is_refused_with_its_value():
    with pytest.raises(ConfigError, match=r"--spec: network\.radius_max is 'wide': input should be a valid integer"):
        Spec("code", {"network.radius_max": "wide"}).get("network.radius_max", int)
    with pytest.raises(ConfigError, match=r"--spec: training is \{'epochs': 3\}: extra inputs are not permitted"):
        Spec("code", {"training": {"epochs": 3}}).get("training", TrainingConfig)
