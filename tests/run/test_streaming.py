"""Patches read as they are drawn are those that would lie in memory, and so are the networks that learn from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig, TrainingConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core import split as splitting
from behindthenoise.core.patches import Patches
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN, Split
from behindthenoise.errors import SplitError
from behindthenoise.io.geometry import Axes
from behindthenoise.run import examples, ingest, streaming
from behindthenoise.run.examples import cut, load_examples, validation_split
from behindthenoise.run.pairs import Pairs
from behindthenoise.run.streaming import Streamed, stream

CPU = torch.device("cpu")
CONFIG = TrainingConfig(patch=8, batch=3)
CONFIGS = {"2d-chunks": TrainingConfig(patch=40)}
CASES = {
    "2d": ((1, 1, 1), (23, 30)),
    "2d-many": ((3, 2, 2), (17, 12)),
    "2d-chunks": ((1, 1, 1), (270, 20)),  # a chunk is 256 voxels long
    "3d": ((1, 1, 1), (9, 14, 11)),
    "3d-many": ((2, 3, 1), (3, 10, 12)),
}


def made(fields, shape, seed=0, unit=5):
    """Pairs in which every voxel is its own, with roles by block, a mask, and NaN under it."""
    (images, scans, channels), random = fields, np.random.default_rng(seed)
    noisy = random.normal(size=(images, scans, channels, *shape)).astype(np.float32)
    clean = random.normal(size=(images, channels, *shape)).astype(np.float32)
    blocks = [np.arange(size) // unit for size in shape]
    counts = [places[-1] + 1 for places in blocks]
    place = np.ravel_multi_index(np.meshgrid(*blocks, indexing="ij"), counts)
    units = np.stack([place + image * int(np.prod(counts)) for image in range(images)]).astype(np.int32)
    roles = random.choice([0, 1, 1, 1, 2, 3], size=units.max() + 1).astype(np.uint8)
    mask = random.random((images, *shape)) < 0.9
    role = np.where(mask, roles[units], np.uint8(0))
    noisy[np.broadcast_to(~mask[:, None, None], noisy.shape)] = np.nan
    clean[np.broadcast_to(~mask[:, None], clean.shape)] = np.nan
    constants = random.uniform(0.5, 2, size=(6, channels))
    scale = Scale(*(tuple(float(value) for value in row) for row in constants))
    space = ("z", "y", "x")[-len(shape) :]
    axes = Axes(space, tuple(f"c{index}" for index in range(channels)), "counts")
    return Pairs(noisy, clean, mask, Split(role, np.where(role == 0, np.int32(-1), units)), scale, axes, 0)


def expect_same_examples(streamed, cuts):
    assert len(streamed) == len(cuts)
    every = np.arange(len(cuts))
    for chosen in (every, every[::-1].copy(), every[::3].copy()):
        found, expected = streamed.batch(chosen), cuts.batch(chosen)
        for name in ("noisy", "clean", "weight"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_images_count_if_a_voxel_of_them_trains(tmp_path):
    pairs = made(*CASES["2d-many"])
    pairs.split.role[:] = TEST
    pairs.split.role[1, -1, -1] = TRAIN
    ingest.write_pairs(tmp_path / "pairs.zarr", pairs, {})
    assert streaming.training_images(tmp_path / "pairs.zarr") == 1
    pairs.split.role[2, 0, 0] = TRAIN
    ingest.write_pairs(tmp_path / "more.zarr", pairs, {})
    assert streaming.training_images(tmp_path / "more.zarr") == 2


@pytest.mark.parametrize("name", CASES)
def test_streamed_examples_are_those_of_memory_to_the_bit_and_in_their_order(name, tmp_path):
    pairs = made(*CASES[name])
    ingest.write_pairs(tmp_path / "pairs.zarr", pairs, {})
    config = CONFIGS.get(name, CONFIG)
    units = splitting.training_units(pairs.split)
    np.testing.assert_array_equal(streaming.training_units(tmp_path / "pairs.zarr"), units)
    learn, held_out = validation_split(units, 0.3, np.random.default_rng(0))
    for chosen in (learn, held_out, learn[:1]):
        streamed = stream(tmp_path / "pairs.zarr", chosen, config, 3, CPU)
        cuts = cut(pairs, chosen, config, 3)
        assert len(cuts) > 0
        expect_same_examples(streamed, cuts)


@given(
    st.one_of(st.tuples(*[st.integers(2, 30)] * 2), st.tuples(*[st.integers(2, 12)] * 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 2)),
    st.builds(TrainingConfig, patch=st.integers(4, 12), border_weight=st.sampled_from([0.0, 0.1, 1.0])),
    st.integers(0, 5),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
def test_streamed_examples_are_those_of_memory_whatever_the_patches(tmp_path_factory, shape, fields, config, radius, seed):
    pairs, path = made(fields, shape, seed), tmp_path_factory.mktemp("store") / "pairs.zarr"
    units = splitting.training_units(pairs.split)
    if len(units) == 0:
        return
    ingest.write_pairs(path, pairs, {})
    expect_same_examples(stream(path, units, config, radius, CPU), cut(pairs, units, config, radius))


def test_what_was_announced_is_what_is_read(tmp_path):
    pairs = made(*CASES["2d-many"])
    ingest.write_pairs(tmp_path / "pairs.zarr", pairs, {})
    units = splitting.training_units(pairs.split)
    streamed, cuts = stream(tmp_path / "pairs.zarr", units, CONFIG, 3, CPU), cut(pairs, units, CONFIG, 3)
    random = np.random.default_rng(0)
    for step in range(20):
        chosen, other = random.integers(len(cuts), size=(2, 4))
        streamed.prepare(other if step % 3 == 0 else chosen)
        found = streamed.batch(chosen)
        assert torch.equal(found.noisy, cuts.batch(chosen).noisy), "also where something else was announced"
    assert len(streamed.coming) <= 1, "what nobody asks for does not pile up"


def test_values_that_calibrate_or_test_are_read_by_no_training(tmp_path):
    pairs = made((1, 1, 1), (40, 40))
    secret = (pairs.split.role == CALIBRATION) | (pairs.split.role == TEST)
    hidden = replace(pairs, noisy=np.where(secret[:, None, None], np.float32(1e6), pairs.noisy))
    units = splitting.training_units(pairs.split)
    ingest.write_pairs(tmp_path / "pairs.zarr", hidden, {})
    found = stream(tmp_path / "pairs.zarr", units, CONFIG, 3, CPU)
    for cuts in (found, cut(hidden, units, CONFIG, 3)):
        batch = cuts.batch(np.arange(len(cuts)))
        assert float(batch.noisy.abs().max()) < 1000
    expect_same_examples(found, cut(pairs, units, CONFIG, 3))


def test_units_that_validate_count_in_no_learning_example_and_the_other_way_round(tmp_path):
    pairs = made((1, 1, 1), (40, 40))
    learn, held_out = validation_split(splitting.training_units(pairs.split), 0.3, np.random.default_rng(1))
    totals = []
    for units in (learn, held_out):
        marked = replace(pairs, clean=np.where(np.isin(pairs.split.unit, units)[:, None], np.float32(1e6), np.float32(0)))
        batch = (cuts := cut(marked, units, CONFIG, 3)).batch(np.arange(len(cuts)))
        assert (batch.clean[batch.weight > 0] > 1e5).all()
        totals.append(len(cuts))
    assert min(totals) > 0
    assert (pairs.split.role == TRAIN).any()


@pytest.mark.parametrize("name", CASES)
def test_memory_decides_only_where_the_examples_lie(name, tmp_path):
    pairs = made(*CASES[name])
    ingest.write_pairs(tmp_path / "pairs.zarr", pairs, {})
    network = NetworkConfig(depth=3, width=2, radius_max=3)
    architecture = architectures.draw(network, architectures.generator(1, 0), ndim=len(pairs.shape), channels=pairs.clean.shape[1])
    chosen = [
        load_examples(
            tmp_path / "pairs.zarr",
            CONFIGS.get(name, CONFIG),
            architecture,
            np.random.default_rng(4),
            memory_bytes=memory,
            device=CPU,
        )
        for memory in (10**9, 1000)
    ]
    assert [type(examples) for examples in chosen[0]] == [Patches, Patches]
    assert [type(examples) for examples in chosen[1]] == [Streamed, Streamed]
    for cuts, streamed in zip(*chosen, strict=True):
        expect_same_examples(streamed, cuts)


def test_images_that_do_not_train_do_not_count_for_whether_patches_fit(tmp_path, monkeypatch):
    pairs = made((5, 1, 1), (23, 30))
    role = pairs.split.role.copy()
    role[2:] = np.where(role[2:] == TRAIN, TEST, role[2:])
    ingest.write_pairs(tmp_path / "pairs.zarr", replace(pairs, split=Split(role, pairs.split.unit)), {})
    asked = []
    monkeypatch.setattr(examples, "resident_bytes", lambda *sizes: asked.append(sizes) or 0)
    architecture = architectures.draw(
        NetworkConfig(depth=3, width=2, radius_max=3), architectures.generator(1, 0), ndim=2, channels=1
    )
    load_examples(tmp_path / "pairs.zarr", CONFIG, architecture, np.random.default_rng(4), memory_bytes=10**9, device=CPU)
    assert [(fields, training) for _, fields, _, training in asked] == [((5, 1, 1), 2)]


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_learning_and_validation_share_no_unit_and_leave_none(count, share, seed):
    units = np.random.default_rng(seed).choice(1000, size=count, replace=False)
    learn, held_out = validation_split(units, share, np.random.default_rng(seed))
    assert sorted([*learn, *held_out]) == sorted(units)
    assert min(len(learn), len(held_out)) >= 1
    assert abs(len(held_out) - share * count) <= 1


def test_one_unit_cannot_be_shared():
    with pytest.raises(SplitError, match=r"1 training block or image cannot be shared .* use a smaller split\.block"):
        validation_split(np.array([3]), 0.2, np.random.default_rng(0))
