import warnings
from dataclasses import replace
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import Calibration
from behindthenoise.core.pyramid import shapes_of_levels
from behindthenoise.core.tokens import TokenModel
from behindthenoise.io.finished import LabelImage, create_false_colours, create_ome
from behindthenoise.io.geometry import Geometry
from behindthenoise.run.finish import calibrated, looked_up, mean_of_data, write_pyramid

blocks = hnp.arrays(np.float32, (2, 4, 6), elements=st.one_of(st.floats(-100, 100, width=32), st.just(np.float32(np.nan))))


@given(blocks)
def test_a_coarse_voxel_is_the_mean_of_what_carries_data(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN is NaN, which is what is asked for
        expected = np.nanmean(values.astype(np.float64), axis=(1, 2))
    np.testing.assert_allclose(mean_of_data(values, axis=(1, 2)), expected, rtol=1e-5, atol=1e-5)


@given(
    hnp.arrays(np.float32, (3, 2, 5), elements=st.floats(-50, 50, width=32)),
    hnp.arrays(np.float32, (2, 3), elements=st.floats(-20, 20, width=32)),
    hnp.arrays(np.uint8, 5, elements=st.integers(0, 3)),
    st.sampled_from([None, 0.0]),
)
def test_a_finished_voxel_has_its_median_inside_its_interval(raw, thresholds, tokens, least):
    calibration = Calibration((Score("asymmetric"),) * 2, (Groups(tokens=3),) * 2, (thresholds,) * 2)
    bands = calibrated(raw, np.zeros((2, 5), np.float32), tokens, calibration=calibration, support=(least, None))
    lower, median, upper, width = bands[:4]
    assert (lower <= median).all()
    assert (median <= upper).all()
    np.testing.assert_array_equal(width, upper - lower)
    assert least is None or (lower >= least).all()


def test_rounded_intervals_hold_what_they_held():
    random = np.random.default_rng(0)
    raw = np.sort(random.normal(size=(3, 2, 500)), axis=0).astype(np.float32)
    thresholds = (np.array([[0.1], [0.2]], np.float32),) * 2
    calibration = Calibration((Score("asymmetric"),) * 2, (Groups(),) * 2, thresholds)
    given = raw, np.zeros((2, 500), np.float32), np.ones(500, np.uint8)
    exact = calibrated(*given, calibration=calibration, support=(None, None))
    found = calibrated(*given, calibration=calibration, support=(None, None), error=1e-2)
    for first in (0, 4):
        lower, median, upper, width = (found[first + index] for index in range(4))
        assert (lower <= exact[first]).all()
        assert (upper >= exact[first + 2]).all()
        assert (lower <= median).all()
        assert (median <= upper).all()
        np.testing.assert_allclose(width, exact[first + 3], rtol=5.1e-3)
    assert len(np.unique(found)) < len(np.unique(exact)) / 2


@pytest.mark.parametrize("shape", [(150, 131), (70, 20, 67)], ids=["2d", "3d"])
def test_every_level_is_the_mean_of_the_one_before(tmp_path, shape):
    random = np.random.default_rng(0)
    image, labels = random.normal(size=(4, *shape)).astype(np.float32), random.integers(1, 4, size=shape).astype(np.uint8)
    image[:, random.random(shape) < 0.3] = np.nan
    geometry = Geometry(("z", "y", "x")[-len(shape) :], ("Fe",), "counts", (1.0,) * len(shape))
    levels = shapes_of_levels(shape)
    target = create_ome(tmp_path / "a.ome.zarr", geometry, levels, [LabelImage("tokens", ((255, 0, 0, 255),) * 3, ({},) * 3)])
    colours = random.integers(1, 256, size=(3, *shape)).astype(np.uint8)
    colours[:, np.isnan(image[0])] = 0
    create_false_colours(target, geometry, levels, {"explained": [0.5, 0.1]})
    full = [da.from_array(part) for part in (image, colours, labels)]
    write_pyramid(full, target, ["", "embedding/", "labels/tokens/"], levels)
    np.testing.assert_array_equal(target["0"][...], image)
    np.testing.assert_array_equal(target["embedding/0"][...], colours)
    np.testing.assert_array_equal(target["labels/tokens/0"][...], labels)
    assert len(levels) > 1
    for level, (fine, coarse) in enumerate(pairwise(levels), start=1):
        values, reduced = target[str(level - 1)][...], target[str(level)][...]
        for voxel in random.integers(0, coarse, size=(50, len(shape))):
            factors = [big // small for big, small in zip(fine, coarse, strict=True)]
            block = tuple(slice(at * factor, (at + 1) * factor) for at, factor in zip(voxel, factors, strict=True))
            found = values[(slice(None), *block)].reshape(4, -1)
            expected = [row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in found]
            np.testing.assert_allclose(reduced[(slice(None), *voxel)], expected, rtol=1e-5, atol=1e-6)
            shades = target[f"embedding/{level - 1}"][(slice(None), *block)].reshape(3, -1)
            kept = shades[:, shades.all(axis=0)]
            mean = kept.mean(axis=1) if kept.size else np.zeros(3)
            np.testing.assert_allclose(target[f"embedding/{level}"][(slice(None), *voxel)], mean, atol=0.51)


def test_masked_voxels_stay_masked():
    raw = np.zeros((3, 1, 4), np.float32)
    raw[:, :, 2] = np.nan
    calibration = Calibration((Score("cqr"),), (Groups(),), (np.full((1, 1), 0.1, np.float32),))
    tokens = np.array([1, 1, 0, 1], np.uint8)
    bands = calibrated(raw, np.zeros((1, 4), np.float32), tokens, calibration=calibration, support=(0.0, None))
    assert np.isnan(bands[:, 2]).all()
    assert np.isfinite(bands[:, [0, 1, 3]]).all()
    model = TokenModel.of_centroids(np.array([[0.0], [1.0]], np.float32))
    model = replace(model, reference=(np.array([0.001, 0.02, 0.03], np.float32), np.array([0.001, 0.002, 0.003], np.float32)))
    for familiar in (None, model):
        located = looked_up(np.array([[0.1, np.nan, 0.9]], np.float32), model, familiar)
        np.testing.assert_array_equal(located[0], [1, 0, 2])
        np.testing.assert_allclose(located[1], [0.25, np.nan, 0.75])
