"""Tokens that are fitted on volumes as well: which voxels take part, what members say about them, and what novelty still means."""

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.metrics import adjusted_rand_score

from behindthenoise.config import InferenceConfig, NetworkConfig, TokensConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core import inference
from behindthenoise.core.embedding import embed, stored
from behindthenoise.core.network import Network
from behindthenoise.core.projection import fit_projection
from behindthenoise.core.sampling import CROP, draw_sample
from behindthenoise.core.scale import Scale
from behindthenoise.core.tokens import assign
from behindthenoise.io import datasets, tables, volumes
from behindthenoise.io.geometry import Axes
from behindthenoise.run import embed as embedding
from behindthenoise.run import finish, models, token_models, tokenize, volume_samples
from behindthenoise.run.models import Sample
from behindthenoise.run.volume_samples import Member
from behindthenoise.stages import STAGES, Spec

SHAPES = {2: (83, 150), 3: (40, 33, 70)}
SCALE = Scale((1.0, -5.0), (2.0, 0.5), (100.0, 0.0), (3.0, 20.0), (1.0, 1.0), (0.0, 0.0))


def member_of(ndim, number, **settings):
    """A network with random weights."""
    config = NetworkConfig(depth=3 + number, width=2, radius_max=3 + 2 * number, latent=3, head=4)
    drawn = architectures.draw(config, architectures.generator(0, number), ndim=ndim, channels=2)
    network = Network(drawn)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Member(network.eval(), SCALE, InferenceConfig(**settings))


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def volume(request, tmp_path):
    """Noise under a mask that leaves whole crops out."""
    random, shape = np.random.default_rng(request.param), SHAPES[request.param]
    mask = random.random(shape) < 0.7
    mask[..., :CROP] = False
    space = ("z", "y", "x")[-len(shape) :]
    axes = Axes(space, ("Fe", "Cu"), "counts")
    noisy = xr.DataArray(random.normal(size=(2, *shape)).astype(np.float32), dims=("channel", *space))
    datasets.write_input(tmp_path / "input.zarr", noisy, xr.DataArray(mask, dims=space), axes, {})
    return volumes.open_input(tmp_path / "input.zarr")


def test_every_member_draws_the_same_voxels_under_the_mask(volume):
    ndim = len(volume.shape)
    one, other = (volume_samples.draw(volume, member_of(ndim, number), 2000, 5) for number in (0, 1))
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.pairs, other.pairs)
    assert not one.trains.any()
    flat = -1 - one.voxels
    assert 1000 < len(flat) == len(set(flat.tolist())) <= 2000
    assert volume.mask[...].ravel()[flat].all()
    position = np.stack(np.unravel_index(flat, volume.shape))
    apart = np.linalg.norm(position[:, one.pairs[:, 0]] - position[:, one.pairs[:, 1]], axis=0)
    assert len(apart) > 1000 and ((apart >= 2) & (apart <= 5)).all()
    # all over the volume
    halves = [(axis < size / 2).mean() for axis, size in zip(position[:-1], volume.shape[:-1], strict=True)]
    assert all(0.3 < half < 0.7 for half in halves)
    again = volume_samples.draw(volume, member_of(ndim, 0), 2000, 6)
    assert set(again.voxels.tolist()) != set(one.voxels.tolist())


@pytest.mark.parametrize("tile", ["auto", 16])
def test_what_a_member_says_about_them_is_what_it_says_about_the_whole_volume(volume, tile):
    member = member_of(len(volume.shape), 1, tile=tile)
    found = volume_samples.draw(volume, member, 1500, 0)
    mask = np.asarray(volume.mask[...])
    standardised = SCALE.standardise_noisy(np.asarray(volume.noisy[...]), mask, axis=0)
    raw, latents = inference.run_member(member.network, standardised)
    flat = -1 - found.voxels
    expected = latents.reshape(len(latents), -1)[:, flat].T
    np.testing.assert_allclose(found.latents, expected, atol=1e-5 * expected.std())
    values = SCALE.restore_clean(raw, axis=1).reshape(3, 2, -1)[..., flat]
    np.testing.assert_allclose(found.quantiles, values, atol=1e-5 * values.std())


def test_a_volume_with_few_voxels_gives_them_all(tmp_path):
    mask = np.zeros((70, 40), bool)
    mask[66:, 3:9] = True
    axes = Axes(("y", "x"), ("Fe", "Cu"), "counts")
    noisy = xr.DataArray(np.zeros((2, 70, 40), np.float32), dims=("channel", "y", "x"))
    datasets.write_input(tmp_path / "input.zarr", noisy, xr.DataArray(mask, dims=("y", "x")), axes, {})
    found = volume_samples.draw(volumes.open_input(tmp_path / "input.zarr"), member_of(2, 0), 1000, 0)
    np.testing.assert_array_equal(np.sort(-1 - found.voxels), np.flatnonzero(mask))


def test_slabs_of_the_mask_change_nothing(volume, monkeypatch):
    whole = volume_samples.occupied_of(volume)
    monkeypatch.setattr(volume_samples, "SLAB", CROP)
    np.testing.assert_array_equal(volume_samples.occupied_of(volume), whole)
    assert not whole[..., 0].any() and whole[..., 1:].all()


MEMBERS = 4


def materials(shape, kinds, seed):
    """Latents (member, *shape, 4) in bands of materials along the last axis: one place for each, and noise of each member's own."""
    random = np.random.default_rng(seed)
    truth = np.broadcast_to(np.repeat(kinds, shape[-1] // len(kinds)), shape)
    places = np.array([[0.0, 0, 0, 0], [4, 0, 0, 0], [2, 6, 0, 0]])[truth]
    return places + 0.5 * random.normal(size=(MEMBERS, *shape, 4)), truth


def sampled(vectors, trains, seed=0):
    drawn = draw_sample(np.ones(vectors.shape[1:-1], bool), 3000, seed)
    rows = vectors.reshape(MEMBERS, -1, 4)[:, drawn.voxels].astype(np.float32)
    voxels = drawn.voxels if trains else -1 - drawn.voxels
    return [Sample(voxels, part, np.repeat(part[None, None, :, 0], 3, axis=0), drawn.pairs) for part in rows]


@pytest.fixture(params=[False, True], ids=["training alone", "volume as well"])
def fitted(request, tmp_path):
    """Projection and tokens of training data with two materials; a volume has a third one, and may take part."""
    training, _ = materials((4, 40, 60), [0, 1], 1)
    target, truth = materials((1, 60, 90), [0, 1, 2], 2)
    samples = sampled(training, trains=True)
    if request.param:
        samples = [one.joined(other) for one, other in zip(samples, sampled(target, trains=False), strict=True)]
    paths = [tmp_path / f"{index}.npz" for index in range(MEMBERS)]
    for path, sample in zip(paths, samples, strict=True):
        models.write_sample(path, sample)
    files = {name: tmp_path / f"{name}.npz" for name in ("projection", "tokens")}
    content = TokensConfig(components=4, count=3 if request.param else 2).model_dump(mode="json")

    def spec(verb):
        return Spec("", {key: content[key.partition(".")[2]] for key in STAGES[verb].sections})

    embedding.run(spec("embed"), latents=paths, projection=files["projection"])
    written = {name: tmp_path / f"{name}.csv" for name in ("stability", "table")}
    tokenize.run(spec("tokenize"), latents=paths, **files, **written)
    mapping = models.read_projection(files["projection"])
    points = stored(embed(mapping, [part.reshape(-1, 4) for part in target])).T
    return request.param, files["tokens"], points.astype(np.float32), truth.ravel()


def test_a_material_that_training_lacks_gets_a_token_of_its_own_and_is_new_all_the_same(fitted):
    as_well, path, points, truth = fitted
    model, familiar = token_models.read(path), token_models.read_familiar(path)
    assert (familiar is not None) == as_well
    agreement = adjusted_rand_score(truth, assign(model, points))
    assert agreement > 0.95 if as_well else agreement < 0.7
    _, novelty = finish.looked_up(points, model, familiar)
    assert (novelty[truth == 2] > 0.99).mean() > 0.99
    assert (novelty[truth != 2] > 0.99).mean() < 0.03


def test_novelty_is_that_of_tokens_of_training_voxels_alone(fitted, tmp_path):
    """However many voxels of volumes take part: its reference are training voxels, each once."""
    as_well, path, _, _ = fitted
    model = token_models.read_familiar(path) if as_well else token_models.read(path)
    training, _ = materials((4, 40, 60), [0, 1], 1)
    assert sum(len(part) for part in model.reference) == len(sampled(training, trains=True)[0].voxels)
    shares = [float(row["share"]) for row in tables.read(tmp_path / "table.csv")]
    assert sum(shares) == pytest.approx(1)


def test_training_voxels_alone_are_a_sample_of_their_own():
    training, target = (sampled(materials((2, 40, 60), [0, 1], seed)[0], trains=seed == 0)[0] for seed in (0, 1))
    both = training.joined(target)
    for one, other in zip(vars(both.of_training).values(), vars(training).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    count = len(training.voxels)
    of_target = both.pairs[len(training.pairs) :]
    np.testing.assert_array_equal(of_target - count, target.pairs)
    np.testing.assert_array_equal(both.latents[of_target], target.latents[target.pairs])


def test_a_projection_without_the_volume_does_not_see_what_is_new_in_it():
    """Latents may differ along a direction in which training voxels do not; then only a fit on both keeps it."""
    random = np.random.default_rng(0)
    training = [np.concatenate([random.normal(size=(500, 1)), 1e-3 * random.normal(size=(500, 1))], axis=1).astype(np.float32)]
    target = [np.array([[0.0, 10.0]], np.float32)]
    alone, _ = fit_projection(training, 1)
    both, _ = fit_projection([np.concatenate([training[0], np.repeat(target[0], 500, axis=0)])], 1)
    gaps = [abs(float(embed(mapping, target)[0, 0] - embed(mapping, [training[0]]).mean())) for mapping in (alone, both)]
    assert gaps[0] < 0.1 < gaps[1]
