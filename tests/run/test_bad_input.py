"""Bad input ends in the first verbs, before any training, with a message that says what to do."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
import yaml
import zarr
from scipy.ndimage import gaussian_filter

from behindthenoise import config as settings
from behindthenoise.cli import main
from behindthenoise.errors import ConfigError
from behindthenoise.io import volumes
from behindthenoise.io.geometry import UNNAMED, read_geometry
from behindthenoise.run import forecast
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.stages import specification

SHAPE = (48, 48)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a good pair of scans, which is where the verbs run."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    clean = random.normal(size=(2, *SHAPE)).astype(np.float32)
    np.save("noisy.npy", clean + random.normal(size=(2, 2, *SHAPE)).astype(np.float32))
    np.save("clean.npy", clean)
    return tmp_path


def configure(*, noisy=None, clean=None, split=None, pairs=None, **sections):
    content = {
        "dataset": "tiny",
        "pairs": {
            "noisy": {"path": "noisy.npy", "axes": "scan channel y x", "channel_names": ["Si", "Fe"], **(noisy or {})},
            "clean": {"path": "clean.npy", "axes": "channel y x", "channel_names": ["Si", "Fe"], **(clean or {})},
            **(pairs or {}),
        },
        "split": {
            "by": "region",
            "block": 4,
            "regions": {
                "train": {"y": [0, 0.5]},
                "calibration": {"y": [0.5, 1], "x": [0, 0.5]},
                "test": {"y": [0.5, 1], "x": [0.5, 1]},
            },
            **(split or {}),
        },
        "network": {"depth": 3, "width": 2, "radius_max": 3},
        **sections,
    }
    return settings.parse(content)


def run(verb, config, *options):
    return main([verb, *options, "--spec", specification(config, verb)])


def ingest(config):
    return run("ingest", config, "--store", "pairs.zarr", "--manifest", "pairs.json")


def place(config, name):
    """The geometry of a volume whose pairs are read, and which is fetched, unless it is the pairs' own field."""
    options = ["--pairs", "pairs.zarr", "--volume", f"{name}.zarr", "--geometry", "geometry.json", "--name", name]
    assert main(["place", *options, "--spec", specification(config, "place", volume=name)]) == 0
    return read_geometry(Path("geometry.json"))


def check(config):
    assert ingest(config) == 0
    assert run("wire", config, "--pairs", "pairs.json", "--member", "0", "--graph", "graph.json") == 0
    return run("check", config, "--pairs", "pairs.json", "--graph", "graph.json")


def test_good_input_passes(folder):
    assert check(configure()) == 0


def test_shapes_that_differ(folder, capsys):
    np.save("clean.npy", np.zeros((2, 48, 40), np.float32))
    assert ingest(configure()) == 2
    assert "noisy.npy has 48 voxels along x, clean.npy has 40" in capsys.readouterr().err


def test_scans_of_different_fields(folder, capsys):
    np.save("clean.npy", np.load("clean.npy").swapaxes(1, 2))
    assert ingest(configure()) == 2
    assert "pairs.noisy and pairs.clean do not seem to show the same fields" in capsys.readouterr().err


def test_images_in_another_order(folder, capsys):
    clean = np.random.default_rng(1).normal(size=(12, *SHAPE)).astype(np.float32)
    np.save("clean.npy", clean)
    np.save("noisy.npy", clean[::-1])
    axes = {"axes": "image y x", "channel_names": None}
    ordered = {"noisy": axes, "clean": axes, "split": {"by": "image", "regions": {}}}
    assert ingest(configure(**ordered)) == 2
    assert "look at the order of axes, images, slices" in capsys.readouterr().err
    np.save("noisy.npy", clean + np.random.default_rng(2).normal(size=clean.shape).astype(np.float32))
    assert ingest(configure(**ordered)) == 0


def test_a_slow_scan_among_the_fast_ones(folder, capsys):
    """A pattern may match it, too; from then on networks would learn from what they are judged by."""
    noisy, clean = np.load("noisy.npy"), np.load("clean.npy")
    np.save("noisy.npy", np.stack([*noisy, 3 * clean + 5]))
    for scans in (None, [2, 0]):
        assert ingest(configure(pairs={"scans": scans})) == 2
        assert "scan 2 of pairs.noisy (the first is 0) is pairs.clean itself" in capsys.readouterr().err
    assert ingest(configure(pairs={"scans": [1, 0]})) == 0


def test_a_few_bright_voxels_make_no_scan_the_slow_one(folder):
    noisy, clean = np.load("noisy.npy"), np.load("clean.npy")
    bright = np.random.default_rng(1).random(clean.shape) < 0.02
    np.save("noisy.npy", noisy + 1e6 * bright)
    np.save("clean.npy", clean + 1e6 * bright)
    assert ingest(configure()) == 0


def test_fast_scans_without_anything_to_learn_from(folder, capsys):
    noisy = np.load("noisy.npy")
    noisy[:, 1] = 3
    np.save("noisy.npy", noisy)
    assert ingest(configure()) == 0
    noisy[:] = 0
    np.save("noisy.npy", noisy)
    assert ingest(configure()) == 2
    assert "pairs.noisy is constant in all training voxels" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.1, 3.3])
def test_a_constant_channel_of_doubles_is_not_taken_for_one_that_is_rounded(folder, value):
    """The standard deviation of a constant is a remainder of rounding."""
    noisy = np.load("noisy.npy").astype("f8")
    noisy[:, 1] = value
    np.save("noisy.npy", noisy)
    assert ingest(configure()) == 0


@pytest.mark.parametrize(
    ("dtype", "offset", "told"), [("i4", 2**30, True), ("f8", 1e9, True), ("i4", 2**20, False), ("f8", 0, False)]
)
def test_numbers_that_float32_does_not_tell_apart(folder, capsys, dtype, offset, told):
    for name in ("noisy", "clean"):
        np.save(f"{name}.npy", (offset + 100 * np.load(f"{name}.npy").astype("f8")).astype(dtype))
    assert ingest(configure()) == (2 if told else 0)
    message = f"noisy noisy.npy lies around {offset:g}"
    assert (message in capsys.readouterr().err) == told


def test_one_related_channel_is_enough_and_faint_signals_are_seen(folder):
    clean = np.load("clean.npy")
    noise = np.random.default_rng(1).normal(size=(2, 2, *SHAPE)).astype(np.float32)
    noise[:, 0] += 0.3 * clean[0]
    np.save("noisy.npy", noise)
    assert ingest(configure()) == 0


def test_a_slow_scan_without_anything_to_learn(folder, capsys):
    clean = np.load("clean.npy")
    clean[1] = 7
    np.save("clean.npy", clean)
    assert ingest(configure()) == 2
    assert "channel 'Fe' of pairs.clean is 7 in all training voxels" in capsys.readouterr().err


def test_a_channel_that_does_not_exist(folder, capsys):
    assert ingest(configure(pairs={"channels": ["Zn"]})) == 2
    assert "channel 'Zn' does not exist in noisy.npy; it has Si, Fe" in capsys.readouterr().err


def test_channels_in_another_order(folder, capsys):
    assert ingest(configure(clean={"channel_names": ["Fe", "Si"]})) == 2
    assert "noisy.npy has the channels Si, Fe, clean.npy has Fe, Si" in capsys.readouterr().err


def test_channels_chosen_by_name_fit_whatever_their_order(folder):
    np.save("clean.npy", np.load("clean.npy")[::-1])
    assert ingest(configure(clean={"channel_names": ["Fe", "Si"]}, pairs={"channels": ["Si", "Fe"]})) == 0


def test_names_of_the_fast_scans_are_enough_and_that_is_told(folder, capsys):
    assert ingest(configure()) == 0
    assert "does not name" not in capsys.readouterr().err
    assert ingest(configure(clean={"channel_names": None})) == 0
    assert "warning: clean.npy does not name each channel: taken for Si, Fe, in this order" in capsys.readouterr().err
    assert xr.open_zarr("pairs.zarr", consolidated=False)["channel"].values.tolist() == ["Si", "Fe"]


def test_a_scan_that_does_not_exist(folder, capsys):
    assert ingest(configure(pairs={"scans": [0, 5]})) == 2
    assert "scan 5 does not exist in noisy.npy; it has 2" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("noisy", np.nan), ("clean", np.inf)])
def test_voxels_that_are_no_numbers_without_a_mask(folder, capsys, name, value):
    values = np.load(f"{name}.npy")
    values[..., 3, 4:6] = value
    np.save(f"{name}.npy", values)
    assert ingest(configure()) == 2
    count = {"noisy": 8, "clean": 4}[name]
    assert f"{name} {name}.npy has {count} voxels that are NaN or infinite and no mask is given" in capsys.readouterr().err


def test_nan_under_the_mask_is_no_error_but_outside_it_is(folder, capsys):
    values = np.load("noisy.npy")
    values[..., 3, 4:6] = np.nan
    np.save("noisy.npy", values)
    mask = np.ones(SHAPE, np.uint8)
    mask[3, 4:6] = 0
    np.save("mask.npy", mask)
    masked = configure(pairs={"mask": {"path": "mask.npy", "axes": "y x"}})
    assert ingest(masked) == 0
    mask[3, 4] = 1
    np.save("mask.npy", mask)
    assert ingest(masked) == 2
    assert "has 4 voxels that are NaN or infinite under the mask; exclude them by the mask" in capsys.readouterr().err


def test_an_empty_mask(folder, capsys):
    np.save("mask.npy", np.zeros(SHAPE, bool))
    assert ingest(configure(pairs={"mask": {"path": "mask.npy", "axes": "y x"}})) == 2
    assert "the mask is empty: none of 2304 voxels carries data" in capsys.readouterr().err


def test_a_mask_of_another_shape(folder, capsys):
    np.save("mask.npy", np.ones((48, 47), bool))
    assert ingest(configure(pairs={"mask": {"path": "mask.npy", "axes": "y x"}})) == 2
    assert "mask mask.npy has 47 voxels along x; the image has 1 along image, 48 along y, 48 along x" in capsys.readouterr().err


def test_a_gap_that_leaves_nothing(folder, capsys):
    assert ingest(configure(network={"depth": 3, "radius_max": 16})) == 2
    assert "no calibration voxels are left after a gap of 33 voxels" in capsys.readouterr().err


def test_too_few_calibration_units(folder, capsys):
    assert check(configure(calibration={"guarantee": "crc", "unit": "image"})) == 2
    assert "1 calibration image cannot promise 90 % coverage with guarantee 'crc'" in capsys.readouterr().err
    assert check(configure(calibration={"guarantee": "tolerance", "block": 24})) == 2
    assert (
        "1 calibration block cannot promise 90 % coverage with guarantee 'tolerance' in 90 % of new blocks"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("inference", "message"),
    [
        ({"tile": 48, "memory_gb": 0.5}, "a tile of 48 voxels with a halo of 3 needs 0.60 GB, inference.memory_gb allows 0.50"),
        ({"memory_gb": 0.5}, "even a tile of 16 voxels with a halo of 3 needs 0.60 GB, inference.memory_gb allows 0.50"),
    ],
    ids=["asked", "auto"],
)
def test_a_tile_that_cannot_fit(folder, capsys, inference, message):
    assert check(configure(inference=inference)) == 2
    assert message in capsys.readouterr().err


def test_a_training_step_that_cannot_fit(folder, capsys):
    assert check(configure(training={"batch": 4000, "memory_gb": 1.0})) == 2
    assert re.search(
        r"a training step on 4000 patches of \d+ x \d+ voxels needs up to [\d.]+ GB, training\.memory_gb allows 1;",
        capsys.readouterr().err,
    )


def test_a_missing_file(folder):
    (folder / "clean.npy").unlink()
    with pytest.raises(ConfigError, match=r"pairs\.clean\.path 'clean\.npy' does not exist"):
        configure()


def test_a_volume_with_other_channels(folder, capsys):
    np.save("map.npy", np.zeros((1, 60, 60), np.float32))
    config = configure(volumes={"map": {"noisy": {"path": "map.npy", "axes": "channel y x"}}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 2
    assert "volume map.npy has 1 channels along y x; the training pairs have 2 along y x" in capsys.readouterr().err


def test_clean_values_outside_the_support(folder, capsys):
    assert check(configure(calibration={"support": [0, None]})) == 2
    assert "channel 'Si' of the clean image holds -" in capsys.readouterr().err


def test_a_damaged_file(folder, capsys):
    content = (folder / "noisy.npy").read_bytes()
    (folder / "noisy.npy").write_bytes(content[:-4000])
    assert ingest(configure()) == 2
    assert "noisy.npy" in capsys.readouterr().err


def test_a_damaged_compressed_file(folder, capsys):
    tifffile.imwrite("clean.tif", np.load("clean.npy"), compression="zlib", metadata={"axes": "CYX"})
    with tifffile.TiffFile("clean.tif") as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray((folder / "clean.tif").read_bytes())
    content[start + size // 2 : start + size] = bytes(size - size // 2)
    (folder / "clean.tif").write_bytes(content)
    assert ingest(configure(clean={"path": "clean.tif"})) == 2
    assert "clean.tif cannot be read" in capsys.readouterr().err


def test_sizes_that_are_not_believed_are_noted(folder, capsys):
    told = {"axes": "CYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}
    tifffile.imwrite("map.ome.tif", np.zeros((2, 60, 60), np.float32), metadata=told)
    config = configure(pairs={"spacing": {"y": 0.5, "x": 0.5}, "unit": "um"}, volumes={"map": {"noisy": "map.ome.tif"}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0
    assert place(config, "map").spacing == (0.5, 0.5)
    said = capsys.readouterr().err
    assert "voxels of volume map are taken to be 0.5 x 0.5 micrometer, those of map.ome.tif are 0.3 x 0.3 micrometer" in said
    place(configure(pairs={"unit": "um"}, volumes={"map": {"noisy": "map.ome.tif"}}), "map")
    assert "are taken to be" not in capsys.readouterr().err


def test_a_mask_without_z_holds_for_every_slice(folder):
    random = np.random.default_rng(1)
    clean = random.normal(size=(6, 48, 48)).astype(np.float32)
    np.save("noisy.npy", clean + random.normal(size=(6, 48, 48)).astype(np.float32))
    np.save("clean.npy", clean)
    mask = np.ones(SHAPE, bool)
    mask[:, :5] = False
    np.save("mask.npy", mask)
    volume = {"axes": "z y x", "channel_names": None}
    config = configure(noisy=volume, clean=volume, pairs={"mask": {"path": "mask.npy", "axes": "y x"}}, split={"block": 6})
    assert ingest(config) == 0
    found = xr.open_zarr("pairs.zarr", consolidated=False)["mask"].values[0]
    np.testing.assert_array_equal(found, np.broadcast_to(mask, (6, *SHAPE)))


@pytest.mark.parametrize("order", [("Si", "Fe"), ("Fe", "Si")])
def test_the_channels_of_a_volume_are_found_by_name(folder, order):
    values = {"Si": np.full((60, 60), 1, np.float32), "Fe": np.full((60, 60), 2, np.float32)}
    np.save("map.npy", np.stack([values[name] for name in order]))
    source = {"path": "map.npy", "axes": "channel y x", "channel_names": list(order)}
    config = configure(volumes={"a.map": {"noisy": source}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "a.map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="a.map")]) == 0
    noisy = xr.open_zarr("map.zarr", consolidated=False)["noisy"].values
    assert (noisy[0] == 1).all()
    assert (noisy[1] == 2).all()


@pytest.mark.parametrize("names", [["Si", "Fe"], None])
def test_channels_of_a_volume_without_names_are_taken_in_order_and_that_is_told(folder, capsys, names):
    np.save("map.npy", np.ones((2, 60, 60), np.float32))
    config = configure(volumes={"map": {"noisy": {"path": "map.npy", "axes": "channel y x", "channel_names": names}}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0
    assert ("warning: map.npy does not name each channel: taken for Si, Fe, in this order" in capsys.readouterr().err) == (
        names is None
    )
    assert (UNNAMED in volumes.open_input(Path("map.zarr")).told) == (names is None)
    found = list(forecast.fields(config, forecast.pairs_of(config)))
    assert [field.unnamed for field in found] == [False, names is None]


def test_what_is_cropped_stays_where_it_was(folder):
    np.save("map.npy", np.zeros((2, 60, 60), np.float32))
    volume = {"noisy": {"path": "map.npy", "axes": "channel y x"}, "crop": {"x": [7, 60]}}
    pairs = {"spacing": {"y": 0.5, "x": 0.25}, "unit": "micrometer", "crop": {"y": [4, 48]}}
    config = configure(pairs=pairs, volumes={"map": volume})
    assert ingest(config) == 0
    for name in ("map", "field"):
        options = ["--pairs", "pairs.zarr", "--store", f"{name}.zarr", "--manifest", f"{name}.json", "--name", name]
        assert main(["fetch", *options, "--spec", specification(config, "fetch", volume=name)]) == 0
    assert place(config, "field").origin == (2.0, 0.0)
    found = place(config, "map")
    assert (found.origin, found.spacing) == ((0.0, 1.75), (0.5, 0.25))


def test_generated_pairs_and_a_measured_volume(folder):
    np.save("map.npy", np.stack([np.full((60, 60), value, np.float32) for value in (1, 2)]))
    content = {
        "dataset": "tiny",
        "synthetic": {"images": 4, "shape": [16, 16], "channels": 2},
        "volumes": {
            "map": {"noisy": {"path": "map.npy", "axes": "channel y x", "channel_names": ["Si", "Fe"]}, "origin": {"x": 5}}
        },
    }
    config = settings.parse({**content, "split": {"by": "image"}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0
    found = xr.open_zarr("map.zarr", consolidated=False)
    assert place(config, "map").origin == (0, 5)
    assert found["noisy"].values[:, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": {"spacing": {"y": 0.5}}}, "spacing gives y; it must give every axis: y x"),
        ({"pairs": {"origin": {"z": 7}}}, "origin of z does not fit the fields; its axes are y x"),
        (
            {"volumes": {"map": {"noisy": {"path": "clean.npy", "axes": "channel y x"}, "spacing": {"z": 1, "y": 1, "x": 1}}}},
            "spacing of z does not fit the fields; its axes are y x",
        ),
    ],
)
def test_places_along_the_wrong_axes_are_refused_by_the_check_as_well(folder, capsys, changes, message):
    assert check(configure(**changes)) == 2
    assert message in capsys.readouterr().err


def test_what_does_not_fit_together_is_told_by_plan_as_well(folder, capsys):
    np.save("map.npy", np.zeros((1, 60, 60), np.float32))
    np.save("turned.npy", np.zeros((2, 48, 40), np.float32))
    np.save("two.npy", np.zeros((2, 60, 60), np.float32))
    for changes, message in (
        (
            {"volumes": {"map": {"noisy": {"path": "map.npy", "axes": "channel y x"}}}},
            "map.npy has 1 channels along y x; the training",
        ),
        ({"clean": {"path": "turned.npy"}}, "noisy.npy has 48 voxels along x, turned.npy has 40"),
        ({"regions": {"some": {"channel": "Ni", "above": 1}}}, "regions.some.channel is 'Ni'; the pairs have 'Si', 'Fe'"),
        ({"pairs": {"spacing": {"y": 0.5}}}, "spacing gives y; it must give every axis: y x"),
        (
            {"volumes": {"map": {"noisy": {"path": "two.npy", "axes": "channel y x"}, "origin": {"z": 3}}}},
            "origin of z does not fit two.npy; its axes are y x",
        ),
    ):
        (folder / "some.yaml").write_text(yaml.safe_dump(configure(**changes).model_dump(mode="json", exclude_unset=True)))
        assert main(["plan", "some.yaml"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("x", "unit", "warns"), [(0.301, "micrometer", False), (301, "nm", False), (0.5, "micrometer", True), (0.3, "nanometer", True)]
)
def test_voxels_of_another_size_than_the_file_tells_are_noted(folder, capsys, x, unit, warns):
    told = {"axes": "CYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.2}
    tifffile.imwrite("clean.ome.tif", np.load("clean.npy"), metadata=told)
    pairs = {"spacing": {"y": 200 if unit == "nm" else 0.2, "x": x}, "unit": unit}
    config = configure(clean={"path": "clean.ome.tif"}, pairs=pairs)
    assert ingest(config) == 0
    assert place(config, "field").spacing == (pairs["spacing"]["y"], x)
    assert ("those of clean.ome.tif are 0.2 x 0.3 micrometer" in capsys.readouterr().err) == warns


def test_fast_and_slow_voxels_of_unlike_size_are_noted(folder, capsys):
    for name, size in (("noisy", 0.2), ("clean", 0.4)):
        told = {"axes": "TCYX" if name == "noisy" else "CYX", "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(f"{name}.ome.tif", np.load(f"{name}.npy"), metadata=told)
    config = configure(noisy={"path": "noisy.ome.tif"}, clean={"path": "clean.ome.tif"})
    assert ingest(config) == 0
    place(config, "field")
    told = "voxels of the pairs are taken to be 0.4 x 0.4 micrometer, those of noisy.ome.tif are 0.2 x 0.2 micrometer"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("starts", "units", "differ"),
    [
        ((100, 900), ("micrometer", "micrometer"), True),
        ((100, 100), ("nanometer", "micrometer"), True),
        ((1000, 1), ("nanometer", "micrometer"), False),
        ((100, 900), (None, None), True),
    ],
)
def test_fast_and_slow_scans_at_unlike_places_are_noted(folder, starts, units, differ, capsys):
    for name, start, unit in zip(("noisy", "clean"), starts, units, strict=True):
        values = np.load(f"{name}.npy")
        of_length = {"type": "space", "unit": unit} if unit else {}
        axes = [{"name": axis, **(of_length if axis in "yx" else {})} for axis in ("tcyx" if name == "noisy" else "cyx")]
        steps = [
            {"type": "scale", "scale": [1] * values.ndim},
            {"type": "translation", "translation": [0] * (values.ndim - 1) + [start]},
        ]
        image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
        group = zarr.open_group(f"{name}.ome.zarr", mode="w", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
        group.create_array("0", data=values)
    config = configure(noisy={"path": "noisy.ome.zarr"}, clean={"path": "clean.ome.zarr"})
    assert ingest(config) == 0
    place(config, "field")
    assert ("noisy.ome.zarr::0 and clean.ome.zarr::0 begin at other places" in capsys.readouterr().err) == differ


def test_a_scan_that_is_displaced_is_told(folder, capsys):
    random = np.random.default_rng(0)
    field = gaussian_filter(random.normal(size=(2, 200, 200)), (0, 1.5, 1.5)).astype(np.float32)
    fast = [np.roll(field, by, axis=(1, 2)) + random.normal(0, 0.2, field.shape) for by in ((0, 0), (-1, 2))]
    np.save("noisy.npy", np.array(fast, np.float32))
    np.save("clean.npy", field)
    assert ingest(configure()) == 0
    said = capsys.readouterr().err
    (found,) = re.findall(r"warning: displaced: (the slow scan against scan 1 by y (\S+) ± 0.0\d, x (\S+) ± 0.0\d voxels)\n", said)
    assert [float(by) for by in found[1:]] == pytest.approx([1, -2], abs=0.1)
    assert store_of_pairs.read(Path("pairs.zarr")).displaced == [found[0]]


def test_images_of_many_are_displaced_by_themselves(folder, capsys):
    random = np.random.default_rng(0)
    field = gaussian_filter(random.normal(size=(4, 2, 200, 200)), (0, 0, 1.5, 1.5)).astype(np.float32)
    fast = field + random.normal(0, 0.2, field.shape)
    fast[2] = np.roll(fast[2], 3, axis=1)
    np.save("noisy.npy", fast.astype(np.float32))
    np.save("clean.npy", field)
    axes = {"axes": "image channel y x"}
    assert ingest(configure(noisy=axes, clean=axes)) == 0
    assert "warning: displaced: the slow scan against scan 0 of image 2 by y -3.0" in capsys.readouterr().err


def test_images_too_small_to_tell_are_taken_together(folder, capsys):
    random = np.random.default_rng(0)
    field = gaussian_filter(random.normal(size=(12, 2, 52, 52)), (0, 0, 1.5, 1.5)).astype(np.float32)
    fast = np.roll(field, 2, axis=3) + random.normal(0, 0.05, field.shape)
    np.save("noisy.npy", fast.astype(np.float32))
    np.save("clean.npy", field)
    axes = {"axes": "image channel y x"}
    assert ingest(configure(noisy=axes, clean=axes)) == 0
    assert re.search(
        r"warning: displaced: the slow scan against scan 0 by y .0.\d\d ± 0.\d\d, x -(2.0|1.9)\d ", capsys.readouterr().err
    )


def test_scans_that_lie_on_each_other_are_no_reason_for_a_warning(folder, capsys):
    assert ingest(configure()) == 0
    assert "ingest: no displacement of half a voxel or more was found" in capsys.readouterr().err


def test_a_volume_of_one_slice_and_one_time_fits_images(folder):
    np.save("map.npy", np.ones((1, 2, 1, 60, 60), np.float32))
    config = configure(volumes={"map": {"noisy": {"path": "map.npy", "axes": "image channel z y x"}, "spacing": {"y": 2, "x": 3}}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0
    found = xr.open_zarr("map.zarr", consolidated=False)
    assert found["noisy"].shape == (2, 60, 60)
    assert place(config, "map").spacing == (2, 3)


def test_a_volume_keeps_its_own_scale_and_place(folder, capsys):
    told = {"axes": "CYX", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.2}
    tifffile.imwrite("map.ome.tif", np.zeros((2, 60, 60), np.float32), metadata=told)
    config = configure(volumes={"map": {"noisy": "map.ome.tif", "crop": {"x": [10, 60]}, "origin": {"y": 500, "x": -100}}})
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0
    found = place(config, "map")
    assert "has voxels of 0.2 x 0.3 micrometer, the training pairs of 1 x 1 pixel" in capsys.readouterr().err
    assert (found.origin, found.spacing, found.unit) == ((500, -97), (0.2, 0.3), "micrometer")


def test_a_volume_without_a_channel_axis_fits_pairs_without_one(folder):
    random = np.random.default_rng(0)
    clean = random.normal(size=SHAPE).astype(np.float32)
    values = {
        "noisy": clean + random.normal(size=(2, *SHAPE)).astype(np.float32),
        "clean": clean,
        "map": np.ones((60, 70), np.float32),
    }
    for name, found in values.items():
        np.save(f"{name}.npy", found)
    plain = {"axes": "y x", "channel_names": None}
    config = configure(
        noisy={**plain, "axes": "scan y x"}, clean=plain, volumes={"map": {"noisy": {"path": "map.npy", "axes": "y x"}}}
    )
    assert ingest(config) == 0
    options = ["--pairs", "pairs.zarr", "--store", "map.zarr", "--manifest", "map.json", "--name", "map"]
    assert main(["fetch", *options, "--spec", specification(config, "fetch", volume="map")]) == 0


def test_a_support_that_ends_where_the_data_end_is_accepted(folder):
    clean = np.clip(np.load("clean.npy"), 0, np.float32(0.1))
    np.save("clean.npy", clean)
    assert check(configure(calibration={"support": [0, 0.1]})) == 0


def test_more_tokens_than_training_voxels(folder, capsys):
    config = configure(pairs={"crop": {"y": [0, 48], "x": [0, 48]}}, tokens={"count": 255, "sample": 300}, split={"block": 4})
    assert check(config) == 0
    np.save("mask.npy", np.arange(48)[:, None] * np.ones(48) > 22)
    masked = configure(pairs={"mask": {"path": "mask.npy", "axes": "y x"}}, tokens={"count": 60, "sample": 300})
    assert check(masked) == 2
    assert "tokens.count is 60, but only 48 voxels train" in capsys.readouterr().err
