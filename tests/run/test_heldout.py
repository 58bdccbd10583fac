"""Held-out voxels are read block by block: each once, with what belongs to it, however they are stored."""

from dataclasses import replace

import numpy as np
import pytest

from behindthenoise.core.embedding import Projection, embed, stored
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.core.tokens import TokenModel, assign
from behindthenoise.errors import StoreError
from behindthenoise.io import stores
from behindthenoise.run import label, models, token_models
from behindthenoise.stages import Spec

CASES = {"2d": ((13, 20), 1, 1), "2d, images and scans": ((8, 13), 2, 2), "3d, images and scans": ((5, 6, 7), 2, 2)}
ROLES = [int(TRAIN), int(CALIBRATION), int(TEST)]


@pytest.fixture(params=CASES, scope="module")
def fields(request, simulate):
    """Roles drawn voxel by voxel, so that they lie anywhere in a chunk; of several images, the last tests nowhere."""
    shape, images, scans = CASES[request.param]
    made, random = simulate(shape, images=images, scans=scans), np.random.default_rng(1)
    made.role[...] = random.choice(4, p=[0.3, 0.3, 0.3, 0.1], size=made.role.shape)
    if images > 1:
        made.role[-1][made.role[-1] == TEST] = 0
    return replace(made, difference=random.normal(size=made.clean.shape).astype(np.float32))


@pytest.fixture(params=["one chunk", "many chunks"], scope="module")
def experiment(request, fields, write, tmp_path_factory):
    """In chunks that hold a whole field, or that cut it with a remainder."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "many chunks":
            patch.setattr(stores, "CHUNK", {2: 9, 3: 5})
        return write(tmp_path_factory.mktemp("heldout"), fields)


def places(pieces):
    """Image, scan and position of every voxel, in the order in which they come."""
    columns = []
    for piece in pieces:
        fields = np.full((2, piece.position.shape[1]), [[piece.image], [piece.scan]])
        columns.append(np.concatenate([fields, piece.position]))
    return np.concatenate(columns, axis=1)


def test_every_voxel_of_a_role_comes_exactly_once(fields, experiment, chosen):
    source = experiment.source
    for role in ROLES:
        found = places(source.pieces(role))
        expected = np.argwhere(chosen(fields, role))
        assert sorted(map(tuple, found.T.tolist())) == sorted(map(tuple, expected.tolist()))
        assert source.voxels(role) == len(expected)


def test_each_voxel_has_its_own_values(fields, experiment):
    quantiles, spread = experiment.quantiles()
    assert experiment.source.scans == fields.noisy.shape[1]
    for piece in experiment.source.pieces(int(CALIBRATION)):
        where, every = tuple(piece.position), slice(None)
        scan = (piece.image, piece.scan)
        np.testing.assert_array_equal(piece.quantiles, quantiles[(*scan, every, every, *where)].transpose(1, 2, 0))
        np.testing.assert_array_equal(piece.spread, spread[(*scan, every, *where)].T)
        np.testing.assert_array_equal(piece.token, fields.tokens[(*scan, *where)])
        np.testing.assert_array_equal(piece.truth, fields.clean[(piece.image, every, *where)].T)
        np.testing.assert_array_equal(piece.difference, fields.difference[(piece.image, every, *where)].T)
        # stored on a scale of its own, and put back on that of the clean image
        np.testing.assert_allclose(piece.noisy, fields.noisy[(*scan, every, *where)].T, atol=1e-5)


def test_without_a_second_slow_scan_nothing_is_known_of_its_noise(simulate, make):
    assert all(piece.difference is None for piece in make(simulate((9, 8))).source.pieces(int(TEST)))


def test_within_a_box_come_its_voxels_and_no_others(fields, experiment, chosen):
    source = experiment.source
    shape = fields.role.shape[1:]
    random = np.random.default_rng(3)
    for _ in range(3):
        image = int(random.integers(len(fields.role)))
        spans = [np.sort(random.choice(size + 1, 2, replace=False)).tolist() for size in shape]
        box = tuple(slice(*span) for span in spans)
        inside = np.zeros(fields.tokens.shape, bool)
        inside[(image, slice(None), *box)] = True
        expected = np.argwhere(inside & chosen(fields, CALIBRATION))
        pieces = list(source.pieces(int(CALIBRATION), (image, box)))
        found = places(pieces) if pieces else np.empty((expected.shape[1], 0), int)
        assert sorted(map(tuple, found.T.tolist())) == sorted(map(tuple, expected.tolist()))


def test_the_scans_of_a_block_follow_each_other(fields, experiment):
    scans = fields.noisy.shape[1]
    pieces = list(experiment.source.pieces(int(CALIBRATION)))
    for first in range(0, len(pieces), scans):
        group = pieces[first : first + scans]
        assert [piece.scan for piece in group] == list(range(scans))
        assert all(np.array_equal(piece.position, group[0].position) for piece in group)


def test_boxes_are_the_smallest_around_a_role(fields, experiment):
    source = experiment.source
    for role in ROLES:
        for box, where in zip(source.boxes(role), fields.role == role, strict=True):
            if not where.any():
                assert box is None
                continue
            corners = np.argwhere(where)
            assert box == tuple(slice(*span) for span in zip(corners.min(axis=0), corners.max(axis=0) + 1, strict=True))
    assert (source.boxes(int(TEST))[-1] is None) == (len(fields.role) > 1)


def test_a_member_takes_the_place_of_the_ensemble(fields, experiment):
    member = stores.get_array(stores.open_group(experiment.members[1]), "quantiles")
    for own, piece in zip(experiment.source.of_member(member).pieces(2), experiment.source.pieces(2), strict=True):
        where = (piece.image, piece.scan, slice(None), slice(None), *piece.position)
        np.testing.assert_array_equal(own.quantiles, fields.members[1][where].transpose(1, 2, 0))
        np.testing.assert_array_equal(own.spread, piece.spread)


@pytest.mark.parametrize("shape", [(7, 8), (3, 4, 6)], ids=["2d", "3d"])
def test_the_label_of_a_voxel_is_the_token_nearest_to_its_joined_latents(shape, tmp_path):
    """In chunks that do not fit the field; NaN where nobody predicted."""
    random, lead = np.random.default_rng(0), (2, 2)
    nowhere = random.random((2, *shape)) < 0.3
    members, vectors = [], []
    for index in range(2):
        values = random.normal(size=(*lead, 4, *shape)).astype(np.float32)
        values[np.broadcast_to(nowhere[:, None, None], values.shape)] = np.nan
        members.append(tmp_path / f"{index}.zarr")
        dims = ("image", "scan", "latent", *("z", "y", "x")[-len(shape) :])
        group = stores.create_group(members[-1], {})
        chunks = (1, 1, 4, *[5] * len(shape))
        stores.create_array(group, "latents", values.shape, dtype="float32", chunks=chunks, dims=dims)[...] = values
        vectors.append(values)
    projection = Projection(tuple(random.normal(size=(2, 3, 4))), random.normal(size=3))
    model = TokenModel.of_centroids(random.normal(size=(5, 3)).astype(np.float32))
    models.write_projection(tmp_path / "projection.npz", projection, np.ones(3))
    token_models.write(tmp_path / "tokens.npz", model)
    paths = {name: tmp_path / f"{name}.npz" for name in ("projection", "tokens")}
    label.run(Spec("", {}), members=members, **paths, store=tmp_path / "labels.zarr", manifest=tmp_path / "label.json")
    found = stores.get_array(stores.open_group(tmp_path / "labels.zarr"), "tokens")[...]
    assert found.shape == (*lead, *shape)
    for voxel in np.ndindex(found.shape):
        joined = [values[(*voxel[:2], slice(None), *voxel[2:])][None] for values in vectors]
        if nowhere[(voxel[0], *voxel[2:])]:
            assert found[voxel] == 0
            continue
        point = stored(embed(projection, joined)[0]).astype(np.float32)
        assert found[voxel] == 1 + np.argmin(((model.tree.centroids - point) ** 2).sum(axis=1)) == assign(model, point[:, None])[0]


@pytest.mark.parametrize("name", ["pairs.zarr/clean", "heldout.zarr/quantiles", "heldout.zarr/spread", "labels.zarr/tokens"])
def test_a_lost_file_is_refused_and_not_read_as_what_was_never_written(fields, write, tmp_path, name):
    made = write(tmp_path, fields)
    next(path for path in (tmp_path / name / "c").rglob("*") if path.is_file()).unlink()
    with pytest.raises(StoreError, match=f"1 of the [0-9]+ files of .*{name} are lost"):
        _ = made.source
