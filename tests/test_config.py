from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from behindthenoise import config
from behindthenoise.config import CalibrationConfig, Config, PairsConfig, load, parse
from behindthenoise.config.messages import types_in
from behindthenoise.errors import ConfigError

ROOT = Path(__file__).parents[1]
GENERATED = {"dataset": "some", "synthetic": {}}
MEASURED = {"dataset": "some", "pairs": {"noisy": "fast.npy", "clean": "slow.npy"}}
REGIONS = {"train": {"x": [0, 0.4]}, "calibration": {"x": [0.5, 0.7]}, "test": {"x": [0.8, 1]}}


# what is written besides the pairs, and what the message must say: the key, the value, what is allowed
def test_an_array_may_be_named_by_its_number():
    assert config.Source(path="a.tif", array=1) == config.Source(path="a.tif", array="1")


WRONG = {
    "unknown key": ({"netwrok": {}}, r"unknown key 'netwrok'; allowed here: dataset, pairs, .*network, .*regions, sweep$"),
    "unknown nested key": (
        {"training": {"epochs": 3}},
        r"unknown key 'training\.epochs'; allowed here: quantiles, steps, .*threads$",
    ),
    "unknown key of a volume": (
        {"volumes": {"one": {"noizy": "x"}}},
        r"unknown key 'volumes\.one\.noizy'; allowed here: channels, crop, origin, noisy, mask, scan, spacing, synthetic",
    ),
    "crop of a generated volume": (
        {"volumes": {"one": {"synthetic": [64, 64], "crop": {"y": [0, 8]}}}},
        r"volumes\.one: crop is for a volume that is read; a generated one is as large as its shape",
    ),
    "number as text": ({"training": {"steps": "5"}}, r"training\.steps is '5': input should be a valid integer"),
    "fraction for a count": ({"training": {"steps": 5.5}}, r"training\.steps is 5\.5: input should be a valid integer"),
    "truth value for a count": ({"training": {"steps": True}}, r"training\.steps is True: input should be a valid integer"),
    "word for a truth value": ({"inference": {"spread": "yes"}}, r"inference\.spread is 'yes': input should be a valid boolean"),
    "count for a truth value": ({"training": {"flips": 1}}, r"training\.flips is 1: input should be a valid boolean"),
    "section that is none": ({"network": 5}, r"network is 5: input should be a valid dictionary"),
    "no steps": ({"training": {"steps": 0}}, r"training\.steps is 0: input should be greater than or equal to 1"),
    "infinite rate": (
        {"training": {"learning_rate": float("inf")}},
        r"training\.learning_rate is inf: input should be a finite number",
    ),
    "falling quantiles": (
        {"training": {"quantiles": [0.5, 0.1, 0.9]}},
        r"training\.quantiles: quantiles \[0\.5, 0\.1, 0\.9\] must rise: lower, median, upper",
    ),
    "no median": ({"training": {"quantiles": [0.1, 0.4, 0.9]}}, r"training\.quantiles: .* must have 0\.5 in the middle"),
    "equal quantiles": ({"training": {"quantiles": [0.1, 0.5, 0.5]}}, r"training\.quantiles: .* must rise"),
    "coverage above one": ({"calibration": {"coverage": 1.2}}, r"calibration\.coverage is 1\.2: input should be less than 1"),
    "empty support": (
        {"calibration": {"support": [5, 1]}},
        r"calibration\.support: support from 5 to 1 is empty; the second number must be larger, or null",
    ),
    "a list that ends like a record": (
        {"regions": {"iron.run": {"channel": "Fe", "above": 1}}},
        r"regions names a list 'iron\.run', and records of runs end like that; leave \.run out",
    ),
    "regions of nothing": (
        {"regions": {"iron": {"channel": "Fe"}}},
        r"regions\.iron: exactly one of above, below and widest is needed, not none",
    ),
    "regions of two things": (
        {"regions": {"iron": {"channel": "Fe", "above": 1.0, "widest": 0.1}}},
        r"regions\.iron: exactly one of above, below and widest is needed, not above, widest",
    ),
    "regions without a level": (
        {"regions": {"iron": {"channel": "Fe", "above": 1.0, "level": 0.0}}},
        r"regions\.iron\.level is 0\.0: input should be greater than 0",
    ),
    "tokens fitted on the field": (
        {"tokens": {"fit_also_on": ["field"]}},
        r"tokens\.fit_also_on: tokens may not be fitted on the volume 'field', which holds the calibration and test voxels",
    ),
    "tokens fitted on an unknown volume": (
        {"tokens": {"fit_also_on": ["large"]}, "volumes": {"wide": {"synthetic": [64, 64]}}},
        r"tokens\.fit_also_on names the volume 'large', which does not exist; in `volumes` there are: wide",
    ),
    "tokens fitted on one volume twice": (
        {"tokens": {"fit_also_on": ["wide", "wide"]}, "volumes": {"wide": {"synthetic": [64, 64]}}},
        r"tokens\.fit_also_on: volumes wide, wide name one twice",
    ),
    "shares above one": (
        {"split": {"train": 0.8, "calibration": 0.2, "test": 0.2}},
        r"split: train 0\.8 \+ calibration 0\.2 \+ test 0\.2 = 1\.2 of the data; the three shares may add up to 1 at most",
    ),
    "regions without by": ({"split": {"regions": REGIONS}}, r"split: `regions` belongs to `by: region`"),
    "by region without regions": ({"split": {"by": "region"}}, r"split: `regions` belongs to `by: region`, which needs it for"),
    "a region is missing": (
        {"split": {"by": "region", "regions": {"train": {"x": [0, 0.4]}, "test": {"x": [0.5, 1]}}}},
        r"split: regions are given for \['test', 'train'\]; train, calibration and test are all needed",
    ),
    "region that falls": (
        {"split": {"by": "region", "regions": {**REGIONS, "test": {"x": [1, 0.8]}}}},
        r"split: region test spans x from 1\.0 to 0\.8; fractions rise within 0 to 1",
    ),
    "gap below the receptive field": (
        {"split": {"gap": 24}, "network": {"radius_max": 12}},
        r"split\.gap 24 is smaller than the receptive field of 25 voxels .*; use auto, a wider gap or a smaller network",
    ),
    "negative gap": ({"split": {"gap": -1}}, r"split: gap -1 is negative; use auto or a number of voxels"),
    "gap that is a word": (
        {"split": {"gap": "wide"}},
        r"split\.gap is 'wide': input should be a valid integer; split\.gap is 'wide': .*'auto'",
    ),
    "odd tile": (
        {"inference": {"tile": 17}},
        r"inference\.tile is 17: input should be a multiple of 16; inference\.tile is 17: .*'auto'",
    ),
    "volume named field": ({"volumes": {"field": {"synthetic": [64, 64]}}}, r"volume name 'field' is taken .*; choose another"),
    "volume name with a space": ({"volumes": {"a b": {"synthetic": [64, 64]}}}, r"volumes\.a b.* is 'a b': string should match"),
    "volume from nowhere": ({"volumes": {"one": {}}}, r"volumes\.one: a volume has either `noisy` .* or `synthetic`"),
    "volume from two places": (
        {"volumes": {"one": {"noisy": "x", "synthetic": [64, 64]}}},
        r"volumes\.one: a volume has either `noisy` .* or `synthetic`",
    ),
    "volume of another dimension": (
        {"volumes": {"one": {"synthetic": [64, 64, 64]}}},
        r"volume 'one' has shape \[64, 64, 64\], the pairs \[64, 64\]",
    ),
    "one-dimensional image": ({"synthetic": {"shape": [64]}}, r"synthetic\.shape is \[64\]: tuple should have at least 2 items"),
    "two origins": (MEASURED, r"either `pairs` \(measured\) or `synthetic` \(generated\), not both and not neither"),
    "no origin": ({"synthetic": None}, r"either `pairs` \(measured\) or `synthetic` \(generated\), not both and not neither"),
    "path as name": ({"dataset": "a/b"}, r"dataset is 'a/b': string should match pattern"),
}
WRONG_PAIRS = {
    "duplicate axes": (
        {"noisy": {"path": "fast.npy", "axes": "scan y y x"}},
        r"pairs\.noisy\.axes: axes 'scan y y x' must name each axis once and contain y and x",
    ),
    "no x": ({"noisy": {"path": "fast.npy", "axes": ["scan", "y"]}}, r"pairs\.noisy\.axes: axes 'scan y' must name"),
    "unknown axis": (
        {"noisy": {"path": "a", "axes": "t y x"}},
        r"pairs\.noisy\.axes\.0 is 't': .*'image', 'scan', 'channel', 'z', 'y' or 'x'",
    ),
    "unknown key of a source": (
        {"noisy": {"path": "a", "arrray": "b"}},
        r"unknown key 'pairs\.noisy\.arrray'; allowed here: path, options, array, axes, channel_names, factor",
    ),
    "empty crop": ({"crop": {"y": [5, 5]}}, r"pairs\.crop: crop of y from 5 to 5 is empty; the second number must be larger"),
    "negative crop": ({"crop": {"y": [-2, 5]}}, r"pairs\.crop\.y\.0 is -2: input should be greater than or equal to 0"),
    "no clean image": ({"clean": None}, r"pairs\.clean is None"),
    "spacing of zero": ({"spacing": {"x": 0}}, r"pairs\.spacing\.x is 0: input should be greater than 0"),
    "not a number as factor": ({"noisy": {"path": "a", "factor": float("nan")}}, r"pairs\.noisy\.factor is nan: .*finite number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_message_names_the_key_the_value_and_what_is_allowed(case):
    change, message = WRONG[case]
    with pytest.raises(ConfigError, match=rf"^some\.yaml: .*{message}"):
        parse({**GENERATED, **change}, origin="some.yaml")


@pytest.mark.parametrize("case", WRONG_PAIRS)
def test_the_message_names_what_is_wrong_with_the_pairs(case):
    change, message = WRONG_PAIRS[case]
    with pytest.raises(ConfigError, match=message):
        parse({"dataset": "some", "pairs": {**MEASURED["pairs"], **change}}, check_files=False)


def test_every_error_is_told_at_once():
    with pytest.raises(ConfigError, match=r"training\.steps is 0.*; calibration\.coverage is 2"):
        parse({**GENERATED, "training": {"steps": 0}, "calibration": {"coverage": 2.0}})


@pytest.mark.parametrize("content", [None, [1], "text", 3])
def test_a_file_that_is_no_mapping_is_refused(content):
    with pytest.raises(ConfigError, match=r"the config is .*: input should be a valid dictionary"):
        parse(content)


def test_a_missing_key_without_default_is_named():
    with pytest.raises(ConfigError, match="key 'dataset' is missing and has no default"):
        parse({"synthetic": {}})


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (MEASURED, "pairs.noisy"),
        ({**MEASURED, "pairs": {"noisy": "here.npy", "clean": "slow.npy"}}, "pairs.clean"),
        ({**MEASURED, "pairs": {"noisy": "here.npy", "clean": "here.npy", "mask": "no*.tif"}}, "pairs.mask"),
        ({**GENERATED, "volumes": {"one": "absent.zarr"}}, "volumes.one.noisy"),
    ],
)
def test_a_source_that_does_not_exist_is_named(content, key, tmp_path, monkeypatch):
    (tmp_path / "here.npy").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"{key}\.path '.*' does not exist; give an existing file, folder or pattern"):
        parse(content)
    parse(content, check_files=False)


DOUBLED = {
    "two keys": ("seed: 1\nsize: 2\nseed: 3\n", r"key 'seed' is written 2 times, in lines 1, 3; keep one of each"),
    "the same value": ("a: {b: 1,\n  b: 1}\n", r"key 'a\.b' is written 2 times, in lines 1, 2;"),
    "two sections": ("a: {b: 1}\nc: 1\na: {d: 1}\n", r"key 'a' is written 2 times, in lines 1, 3;"),
    "in a list": ("a:\n- {b: 1}\n- b: 1\n  'b': 2\n", r"key 'a\.1\.b' is written 2 times, in lines 3, 4;"),
    "three times, and another": (
        "a: 1\nb: 1\na: 1\na: 1\nb: 1",
        r"'a' is written 3 times, in lines 1, 3, 4; key 'b' is written 2 ",
    ),
}


@pytest.mark.parametrize(("text", "message"), DOUBLED.values(), ids=DOUBLED)
def test_a_key_that_is_written_twice_is_named_with_its_lines(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.yaml: .*{message}"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "text",
    ["a: {b: 1}\nc: {b: 1}\n", "a: &x {b: 1}\nc: *x\nd: *x\n", "a: &x {b: 1}\nc: {<<: *x, b: 2}\n", "- a: 1\n- a: 1\n", ""],
    ids=["two sections", "aliases", "merged", "list", "empty"],
)
def test_the_same_key_in_two_places_is_no_doubled_key(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    config.expect_each_key_once(tmp_path / "config.yaml")


@pytest.mark.parametrize("content", [b"a: [1\n", b"a: b: c", b"\xff\xfe\x00", b"\x00"], ids=["bracket", "colon", "bytes", "zero"])
def test_a_file_that_is_not_yaml_is_refused(content, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config file '.*bad\.yaml' cannot be read"):
        load(tmp_path / "bad.yaml")


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config file '.*absent\.yaml' cannot be read: .*No such file"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted((ROOT / "config").glob("*.yaml"))], ids=lambda path: path.stem)
def test_the_configurations_of_this_repository_are_valid(path):
    parse(yaml.safe_load(path.read_text()), origin=path.name, check_files=False)


@pytest.mark.parametrize("content", [GENERATED, MEASURED], ids=["generated", "measured"])
def test_a_configuration_with_all_its_defaults_written_out_is_the_same(content):
    parsed = parse(content, check_files=False)
    assert parse(yaml.safe_load(yaml.safe_dump(parsed.model_dump(mode="json"))), check_files=False) == parsed


def test_a_path_alone_stands_for_a_source_and_for_a_volume():
    short = parse({**MEASURED, "volumes": {"one": "one.zarr"}}, check_files=False)
    sources = {"noisy": {"path": "fast.npy"}, "clean": {"path": "slow.npy"}}
    assert short == parse({**MEASURED, "pairs": sources, "volumes": {"one": {"noisy": {"path": "one.zarr"}}}}, check_files=False)


def test_axes_may_be_one_string():
    one, other = (
        parse({**MEASURED, "pairs": {**MEASURED["pairs"], "noisy": {"path": "a", "axes": axes}}}, check_files=False)
        for axes in ("scan y x", ["scan", "y", "x"])
    )
    assert one == other


@pytest.mark.parametrize("gap", ["auto", 33, 40])
def test_a_gap_of_the_receptive_field_is_enough(gap):
    assert parse({**GENERATED, "split": {"gap": gap}, "network": {"radius_max": 16}}).split.gap == gap


def test_whole_images_need_no_gap():
    assert parse({**GENERATED, "split": {"by": "image", "gap": 0}}).split.gap == 0


def test_a_configuration_does_not_change():
    parsed = parse(GENERATED)
    with pytest.raises(ValueError, match="frozen"):
        parsed.training.steps = 5


@given(st.integers(1, 999))
def test_miscoverage_is_exact(thousandths):
    coverage = thousandths / 1000
    assert CalibrationConfig(coverage=coverage).miscoverage * 1000 == 1000 - thousandths


@pytest.mark.parametrize(("tile", "edge"), [("auto", None), (32, 32)])
def test_the_edge_of_a_tile_is_left_open_by_auto(tile, edge):
    assert config.InferenceConfig(tile=tile, memory_gb=0.5).tile_edge == edge
    assert config.InferenceConfig(memory_gb=0.5).memory_bytes == 500_000_000


def described(model, path=""):
    """Every field of the configuration with its description."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field.description
        for kind in types_in(field.annotation):
            if isinstance(kind, type) and issubclass(kind, config.Section):
                yield from described(kind, f"{path}{name}.")


def test_every_setting_says_what_it_means():
    found = dict(described(Config))
    assert len(found) > 60
    assert not [name for name, text in found.items() if not text or not text.endswith(".")]


def measured(*, turns="auto", **pairs):
    content = {**MEASURED, "pairs": {**MEASURED["pairs"], **pairs}, "training": {"turns": turns}}
    return parse(content, check_files=False)


@pytest.mark.parametrize(
    ("spacing", "decided"),
    [
        ({}, None),
        ({"y": 0.5, "x": 0.5}, None),
        ({"x": 0.5, "y": 0.502}, None),
        ({"z": 1, "y": 1, "x": 1}, ("z", "y", "x")),
        ({"z": 3, "y": 1, "x": 1}, ("y", "x")),
        ({"z": 1, "y": 3, "x": 1}, ("z", "x")),
    ],
)
def test_sizes_of_voxels_decide_what_may_turn_unless_they_are_square_pixels(spacing, decided):
    assert measured(spacing=spacing).turns_by_spacing == decided
    assert measured(spacing=spacing, turns="none").turns_by_spacing is None


def test_pixels_that_are_not_square_turn_not_at_all():
    decided = measured(spacing={"y": 0.5, "x": 0.25}).turns_by_spacing
    # one axis alone is exchanged with nothing
    assert decided is not None
    assert len(decided) == 1


@pytest.mark.parametrize("steps", [(3.0, 1.0), (5e-9, 1e-9)])
def test_turns_between_axes_of_another_spacing_are_refused(steps):
    spacing = {"z": steps[0], "y": steps[1], "x": steps[1]}
    with pytest.raises(ConfigError, match=r"exchange axes of different spacing \(z [35].*, x 1.*\); use auto or none"):
        measured(spacing=spacing, turns=["z", "x"])
    assert measured(spacing=spacing, turns=["y", "x"]).training.turns == ("y", "x")


def test_a_scan_is_used_once():
    with pytest.raises(ValidationError, match="scans 1, 0, 1 name one twice"):
        PairsConfig.model_validate({"noisy": "fast.tif", "clean": "slow.tif", "scans": [1, 0, 1]})
