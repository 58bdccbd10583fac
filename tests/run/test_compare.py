import json
from dataclasses import asdict
from itertools import product
from math import comb

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.histogram import Histogram
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.shift import MOST_BLOCKS, Quantity, compare_volume
from behindthenoise.core.calibration.survey import Dependence
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import CALIBRATION, TRAIN
from behindthenoise.io.geometry import Axes
from behindthenoise.run import compare, scored
from behindthenoise.run.compare import Blocks, add_sizes, block_shape, can_tell, findings, read_volume, sizes_in_volume
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.scored import Cell, Scored
from behindthenoise.stages import Spec

EDGE = 8
WHOLE = {"write_empty_chunks": True}  # as all our stores
NAMES = ["predicted median of channel Fe", "predicted raw width of channel Fe", "token frequencies"]


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def ndim(request):
    return request.param


def medians(random, shape, spread=0.2):
    """A level for each block of `EDGE` voxels, and noise."""
    levels = random.normal(1, spread, [-(-size // EDGE) for size in shape])
    for axis, size in enumerate(shape):
        levels = np.repeat(levels, EDGE, axis=axis).take(range(size), axis=axis)
    return (levels + random.normal(0, 0.1, shape)).astype(np.float32)


def tokens_of(median):
    return (1 + np.digitize(median, [0.9, 1.1])).astype(np.uint8)


def quantiles_of(median):
    """Lower, median and upper of one channel; the width follows the median."""
    return np.stack([median - 0.1 * np.abs(median), median, median + 0.2 * np.abs(median)])[:, None]


def array(values, chunks=None):
    return zarr.create_array(store={}, data=values, chunks=chunks or values.shape)


def volume_of(median, keep=None, chunks=None):
    """Quantiles and tokens of a volume, masked where `keep` is false."""
    keep = np.ones(median.shape, bool) if keep is None else keep
    raw = np.where(keep, quantiles_of(median), np.float32(np.nan))
    return array(raw, chunks and (3, 1, *chunks)), array(np.where(keep, tokens_of(median), np.uint8(0)), (EDGE + 3,) * median.ndim)


def held_out(folder, median, role=None):
    """Stores of held-out voxels from medians (image, scan, *space)."""
    space = ("z", "y", "x")[-(median.ndim - 2) :]
    axes, scale = Axes(space, ("Fe",), "counts"), Scale(*[(1.0,)] * 6)
    role = np.full((len(median), *median.shape[2:]), CALIBRATION, np.uint8) if role is None else role
    quantiles = np.moveaxis(quantiles_of(median), (0, 1), (2, 3))
    whole, one = np.zeros_like(median)[:, :, None], np.zeros_like(median[:, :1])
    pairs = zarr.create_group(folder / "pairs.zarr", attributes={"scale": asdict(scale), "axes": axes.as_data(), "gap": 0})
    averaged = zarr.create_group(folder / "heldout.zarr", attributes={"tiling_difference": 0.0})
    labels = zarr.create_group(folder / "tokens.zarr")
    for group, name, values in [
        (pairs, "role", role),
        (pairs, "noisy", whole),
        (pairs, "clean", one),
        (averaged, "quantiles", quantiles),
        (averaged, "spread", whole),
        (labels, "tokens", tokens_of(median)),
    ]:
        lead = values.ndim - len(space)
        leading = (1, 1, *values.shape[2:lead]) if group is not pairs or name == "noisy" else (1, *values.shape[1:lead])
        group.create_array(
            name, data=values, chunks=(*leading[:lead], *[min(50, size) for size in values.shape[lead:]]), config=WHOLE
        )
    return HeldOut.open(folder / "pairs.zarr", folder / "heldout.zarr", folder / "tokens.zarr")


@pytest.fixture
def field(tmp_path, ndim):
    """One field of 36 or more blocks whose voxels all calibrate."""
    shape = {2: (48, 48), 3: (24, 32, 32)}[ndim]
    return held_out(tmp_path, medians(np.random.default_rng(0), (1, 1, *shape)[2:])[None, None])


def flagged(found):
    return [finding.name for finding in found if finding.flagged]


def test_a_volume_like_the_calibration_data_is_not_flagged(field, ndim):
    shape = {2: (50, 70), 3: (20, 30, 40)}[ndim]
    found = findings(field, *volume_of(medians(np.random.default_rng(1), shape)), "block", EDGE)
    assert [finding.name for finding in found] == NAMES
    assert flagged(found) == []
    assert all(finding.effect < 0.06 for finding in found[:2])


def test_a_brighter_volume_is_flagged(field, ndim):
    shape = {2: (50, 70), 3: (20, 30, 40)}[ndim]
    found = findings(field, *volume_of(medians(np.random.default_rng(1), shape) + 0.5), "block", EDGE)
    assert flagged(found) == NAMES
    assert found[0].effect > 0.3
    assert "the volume differs from the calibration units" in found[0].sentence


def test_a_volume_of_other_tokens_is_flagged_for_its_tokens_alone(field, ndim):
    shape = {2: (50, 70), 3: (20, 30, 40)}[ndim]
    raw, tokens = volume_of(medians(np.random.default_rng(1), shape))
    values = np.asarray(tokens[...])
    values[values == 1] = 3
    assert flagged(findings(field, raw, array(values), "block", EDGE)) == ["token frequencies"]


@pytest.mark.parametrize("kind", ["block", "image"])
@pytest.mark.parametrize("edge", [EDGE, EDGE - 3, 1])
def test_a_volume_of_one_block_or_less_is_too_small_to_compare(field, ndim, kind, edge):
    (found,) = findings(field, *volume_of(medians(np.random.default_rng(1), (edge,) * ndim)), kind, EDGE)
    assert (found.name, found.flagged, found.p_value) == ("size", False, 1.0)
    assert "too small to compare: the volume has 1 and the calibration data have" in found.sentence
    assert f"blocks of {' x '.join([str(edge)] * ndim)} voxels" in found.sentence


def test_calibration_data_in_splinters_are_too_small_to_compare(tmp_path):
    role = np.full((1, 40, 40), TRAIN)
    role[:, ::4] = CALIBRATION
    source = held_out(tmp_path, medians(np.random.default_rng(0), (40, 40))[None, None], role)
    (found,) = findings(source, *volume_of(medians(np.random.default_rng(1), (40, 40))), "block", EDGE)
    assert "the volume has 25 and the calibration data have 0 blocks of 8 x 8 voxels" in found.sentence


def test_a_mostly_masked_block_is_left_out(field, ndim):
    """Masked voxels and the rest of a block that is mostly masked are strange, and nobody sees it."""
    shape = {2: (48, 72), 3: (24, 24, 40)}[ndim]
    median, keep = medians(np.random.default_rng(1), shape), np.ones(shape, bool)
    for block in range(3):
        keep[:EDGE, block * EDGE : (block + 1) * EDGE - 3] = False
    expected = findings(field, *volume_of(np.where(keep, median, 0), keep), "block", EDGE)
    median[:EDGE, : 3 * EDGE] = 1000.0
    found = findings(field, *volume_of(median, keep), "block", EDGE)
    assert found == expected
    assert flagged(found) == []


def test_voxels_that_do_not_calibrate_are_not_compared(tmp_path, ndim):
    shape = {2: (48, 96), 3: (24, 32, 64)}[ndim]
    median = medians(np.random.default_rng(0), shape)
    role = np.full((1, *shape), TRAIN)
    role[..., shape[-1] // 2 :] = CALIBRATION
    median[..., : shape[-1] // 2] = 1000.0
    source = held_out(tmp_path, median[None, None], role)
    assert flagged(findings(source, *volume_of(medians(np.random.default_rng(1), shape)), "block", EDGE)) == []


def test_scans_of_one_block_are_one_sample_with_the_noise_of_one(tmp_path):
    """Even material: all that differs between blocks is noise, and a mean over the scans would have little of it."""
    random, shape = np.random.default_rng(0), (80, 80)
    source = held_out(tmp_path, np.stack([[medians(random, shape, 0.0) for _ in range(8)]]))
    assert flagged(findings(source, *volume_of(medians(random, shape, 0.0)), "block", EDGE)) == []
    numbers = np.arange(100).reshape(1, 10, 10)
    blocks = Blocks((EDGE, EDGE), np.zeros((1, 2), np.int64), numbers, np.ones((EDGE, EDGE), bool))
    inputs = compare.read_pairs(source, blocks)
    assert np.bincount(inputs.block).tolist() == [EDGE**2] * 100
    quantiles = np.asarray(source.quantiles[0, :, 1, 0])
    for row, column in product(range(10), repeat=2):
        block = 10 * row + column
        expected = quantiles[block % 8, row * EDGE : (row + 1) * EDGE, column * EDGE : (column + 1) * EDGE]
        assert np.sort(inputs.values[0, inputs.block == block]).tolist() == np.sort(expected.ravel()).tolist()


@pytest.mark.parametrize("chunk", [5, 16, 64])
def test_a_volume_is_read_alike_in_any_chunks(ndim, chunk):
    shape = {2: (37, 50), 3: (17, 25, 20)}[ndim]
    random = np.random.default_rng(1)
    median, keep = medians(random, shape), random.random(shape) < 0.8
    raw, tokens = volume_of(median, keep, tuple(min(chunk, size) for size in shape))
    sizes = sizes_in_volume(tokens, (EDGE,) * ndim)
    numbers = np.where(random.random(sizes.shape) < 0.5, np.arange(sizes.size).reshape(sizes.shape), -1)
    pattern = random.random((EDGE,) * ndim) < 0.7
    found = read_volume(raw, tokens, Blocks((EDGE,) * ndim, np.zeros((1, ndim), np.int64), numbers, pattern))
    for corner in np.ndindex(sizes.shape[1:]):
        block = tuple(slice(at * EDGE, (at + 1) * EDGE) for at in corner)
        assert sizes[(0, *corner)] == keep[block].sum()
        kept = keep[block] & pattern[tuple(slice(size) for size in keep[block].shape)]
        inside = found.block == numbers[(0, *corner)]
        if numbers[(0, *corner)] >= 0:
            assert np.sort(found.values[0, inside]).tolist() == np.sort(median[block][kept]).tolist()
            assert np.sort(found.values[1, inside]) == pytest.approx(np.sort(0.3 * np.abs(median[block][kept])), abs=1e-6)
            assert np.bincount(found.token[inside]).tolist() == np.bincount(tokens_of(median[block][kept])).tolist()
    assert set(found.block) <= set(numbers.ravel()) - {-1}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=3), st.integers(0, 99))
def test_voxels_are_counted_in_the_block_that_they_lie_in(axes, seed):
    corner, size, edges = zip(*axes, strict=True)
    valid = np.random.default_rng(seed).random(size) < 0.5
    grid = [-(-(start + length) // edge) for start, length, edge in axes]
    expected, found = np.zeros(grid, np.int64), np.ones(grid, np.int64)
    np.add.at(
        expected, tuple((position + start) // edge for position, (start, _, edge) in zip(np.nonzero(valid), axes, strict=True)), 1
    )
    add_sizes(found, valid, corner, edges)
    np.testing.assert_array_equal(found, expected + 1)


def test_of_a_large_volume_a_sample_is_compared(field, ndim):
    shape = {2: (200, 200), 3: (64, 64, 80)}[ndim]
    raw, tokens = volume_of(medians(np.random.default_rng(1), shape))
    sizes = sizes_in_volume(tokens, (EDGE,) * ndim)
    numbers = compare.chosen(sizes, (EDGE,) * ndim, np.random.default_rng(0))
    assert sizes.size > MOST_BLOCKS
    assert np.sort(numbers[numbers >= 0]).tolist() == list(range(MOST_BLOCKS))
    assert flagged(findings(field, raw, tokens, "block", EDGE)) == []


def test_of_a_large_block_a_sample_is_read(tmp_path):
    random = np.random.default_rng(0)
    source = held_out(tmp_path, np.stack([medians(random, (128, 128))[None] for _ in range(12)]))
    raw, tokens = volume_of(medians(random, (256, 384)))
    assert flagged(findings(source, raw, tokens, "image", 0)) == []
    pattern = random.random((128, 128)) < compare.MOST_VOXELS / 128**2
    read = read_volume(raw, tokens, Blocks((128, 128), np.zeros((1, 2), np.int64), np.arange(6).reshape(1, 2, 3), pattern))
    assert np.bincount(read.block).tolist() == [pattern.sum()] * 6
    assert pattern.sum() == pytest.approx(compare.MOST_VOXELS, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "box", "volume", "expected"),
    [
        ("block", (100, 100), (300, 300), (24, 24)),
        ("block", (100, 10), (300, 300), (24, 10)),
        ("block", (100, 100), (20, 300), (20, 24)),
        ("image", (100, 100), (300, 300), (100, 100)),
        ("image", (20, 100, 100), (300, 300, 300), (20, 100, 100)),
        ("image", (100, 100), (100, 100), (50, 100)),
        ("image", (100, 100), (50, 90), (50, 45)),
        ("image", (15, 15), (15, 15), (15, 15)),
    ],
    ids=["block", "thin field", "thin volume", "image", "flat images", "as large as an image", "smaller", "too small"],
)
def test_blocks_are_units_or_images_or_just_small_enough(kind, box, volume, expected):
    boxes = [None, *[tuple(slice(3, 3 + size) for size in box)] * 12]
    assert block_shape(kind, 24, boxes, volume, 3) == expected


@pytest.mark.parametrize("sizes", [(1, 50), (2, 3), (2, 10), (2, 11), (3, 3), (4, 4), (4, 5), (5, 5)])
def test_enough_blocks_are_those_that_could_be_told_apart(sizes):
    first, second = (np.linspace(start, start + 0.01, size) for start, size in zip((0, 9), sizes, strict=True))
    quantities = [Quantity("a", first, second, 0.0), *[Quantity("b", np.ones(3), np.ones(3), 0.0)] * 2]
    found = compare_volume(quantities, None, np.random.default_rng(0))[0]
    least = 3 * (2 if sizes[0] == sizes[1] else 1) / comb(sum(sizes), sizes[0])
    assert found.p_value == pytest.approx(min(1, least), abs=0.06)  # of 1999 random permutations, times three
    assert can_tell(*sizes, 3) == (least <= 0.05 and min(sizes) > 1)


def test_any_number_of_blocks_is_enough_at_once():
    assert can_tell(10**9, 10**8, 201)
    assert not can_tell(1, 10**9, 3)


@pytest.mark.parametrize(("name", "same_field"), [("field", True), ("field.2", False), ("wide", False)])
def test_the_findings_are_written_and_logged(tmp_path, capsys, name, same_field):
    held_out(tmp_path, medians(np.random.default_rng(0), (48, 48))[None, None])
    histogram = Histogram.of(np.zeros(4, np.float32), np.arange(4), 32)
    units = Scored(
        scores=(Score("cqr", 0.0, 0.0),),
        groups=(Groups(),),
        places=(np.zeros((1, 1)),),
        histograms={Cell(0, 0, 0): histogram},
        noisy=(histogram,),
        dependence=Dependence.unknown(1, 1, 1),
        noisy_dependence=Dependence.unknown(1),
        unit_kind="block",
        unit_edge=EDGE,
        radius=2,
    )
    scored.write(tmp_path / "scores.npz", units)
    raw, tokens = volume_of(medians(np.random.default_rng(1), (50, 70)) + 0.5)
    zarr.create_group(tmp_path / "q.zarr").create_array("quantiles", data=np.asarray(raw[...]))
    zarr.create_group(tmp_path / f"{name}.ome.zarr").create_array("labels/tokens/0", data=np.asarray(tokens[...]), config=WHOLE)
    places = {"pairs": "pairs.zarr", "heldout": "heldout.zarr", "labels": "tokens.zarr", "scores": "scores.npz"}
    places |= {"quantiles": "q.zarr", "finished": f"{name}.ome.zarr", "shift": "shift.json"}
    compare.run(Spec("code", {}), **{option: tmp_path / place for option, place in places.items()})
    written = json.loads((tmp_path / "shift.json").read_text())
    assert (written["volume"], written["same_field"]) == (name, same_field)
    assert ("the pairs themselves" in written["specimen"]) == same_field
    assert same_field or "one field cannot show how another one differs" in written["specimen"]
    assert [finding["name"] for finding in written["findings"]] == NAMES
    assert [set(finding) for finding in written["findings"]] == [{"name", "p_value", "effect", "sentence", "flagged"}] * 3
    assert all(finding["flagged"] for finding in written["findings"])
    assert capsys.readouterr().err.count(f"compare: {name}: FLAGGED: predicted") == 2


def test_whose_kind_the_promise_is_about():
    assert "of the kind that the 12 calibration images show" in compare.specimen(False, "image", 12)
    assert "3 fields cannot show how another one differs" in compare.specimen(False, "block", 3)
