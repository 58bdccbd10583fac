import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from behindthenoise.core.clustering import fit_projection, fit_tokens
from behindthenoise.core.tokens import UNASSIGNED, TokenModel, assign, draw_sample, embed, stored

quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def members(draw):
    """Latents of several members, each at its own scale and place."""
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    size, latent = draw(st.integers(40, 200)), draw(st.integers(2, 5))
    return [
        (10.0 ** random.uniform(-2, 2) * (random.normal(size=(size, latent)) @ random.normal(size=(latent, latent)) + 1)).astype(
            np.float32
        )
        for _ in range(draw(st.integers(1, 4)))
    ]


def blobs(seed, count=4, size=400, components=3):
    """Points around well separated centres, and the number of the centre of each."""
    random = np.random.default_rng(seed)
    centres = 20 * random.normal(size=(count, components))
    cluster = random.integers(count, size=size)
    return (centres[cluster] + random.normal(size=(size, components))).astype(np.float32), cluster


@given(members(), st.integers(1, 6))
@quick
def test_the_projection_is_block_scaling_then_components_then_half_whitening(latents, components):
    components = min(components, latents[0].shape[1] * len(latents))
    blocks = [(z - z.mean(0)) / np.sqrt(z.astype(np.float64).var(0).sum()) for z in (part.astype(np.float64) for part in latents)]
    analysis = PCA(components, svd_solver="full").fit(np.concatenate(blocks, axis=1))
    expected = analysis.transform(np.concatenate(blocks, axis=1)) / analysis.explained_variance_**0.25
    projection, explained = fit_projection(latents, components)
    found = embed(projection, latents)
    # the sign of a component is free; sklearn's two solvers may choose it differently
    signs = np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=5e-3 * np.abs(expected).max())
    np.testing.assert_allclose(explained, analysis.explained_variance_ratio_, atol=1e-4)


@given(members())
@quick
def test_every_member_has_the_same_weight_in_the_embedding(latents):
    components = latents[0].shape[1] * len(latents)
    one, _ = fit_projection(latents, components)
    scaled, _ = fit_projection([1000 * latents[0], *latents[1:]], components)
    expected, found = embed(one, latents), embed(scaled, [1000 * latents[0], *latents[1:]])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-2 * np.abs(expected).max())


def test_no_more_components_than_the_latents_have(random):
    latents = [random.normal(size=(50, 2)).astype(np.float32) for _ in range(2)]
    projection, explained = fit_projection(latents, 8)
    assert [matrix.shape for matrix in projection.matrices] == [(4, 2), (4, 2)]
    assert explained.sum() == pytest.approx(1)


def test_a_member_that_is_constant_adds_nothing(random):
    living = random.normal(size=(100, 3)).astype(np.float32)
    dead = np.full((100, 3), 0.5, np.float32)
    alone, _ = fit_projection([living], 3)
    projection, _ = fit_projection([living, dead], 3)
    np.testing.assert_allclose(embed(projection, [living, dead]), embed(alone, [living]), atol=1e-4)


@pytest.mark.parametrize(("seed", "count"), [(0, 2), (1, 4), (2, 6)])
def test_a_voxel_has_the_token_that_kmeans_predicts(seed, count):
    points, _ = blobs(seed)
    random = np.random.default_rng(seed)
    model = fit_tokens(points, random.normal(size=len(points)).astype(np.float32), count, seed=3)
    clusters = KMeans(count, n_init=10, random_state=3).fit(points)
    number = {tuple(np.float32(centre)): index for index, centre in enumerate(model.centroids, start=1)}
    assert len(number) == count
    new = (20 * random.normal(size=(500, points.shape[1]))).astype(np.float32)
    expected = [number[tuple(np.float32(clusters.cluster_centers_[cluster]))] for cluster in clusters.predict(new)]
    found = assign(model, new.T.reshape(-1, 20, 25))
    distances = np.sort(((new[:, None] - model.centroids) ** 2).sum(-1), axis=1)
    clear = distances[:, 1] - distances[:, 0] > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.reshape(-1)[clear], np.array(expected)[clear])


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_numbered_by_rising_mean_intensity(seed):
    points, cluster = blobs(seed)
    levels = np.random.default_rng(seed).permutation(4)
    intensity = (levels[cluster] + 0.1 * np.random.default_rng(seed).normal(size=len(points))).astype(np.float32)
    labels = assign(fit_tokens(points, intensity, 4, seed=0), points.T)
    means = [intensity[labels == token].mean() for token in range(1, 5)]
    assert means == sorted(means)


def test_a_stored_embedding_keeps_what_is_masked_and_never_becomes_infinite():
    kept = stored(np.array([np.nan, 0.123456, -1e9, 1e9], np.float32))
    assert np.isnan(kept[0])
    assert kept[1] == pytest.approx(0.123456, rel=2**-11)
    assert (kept[2], kept[3]) == (-65504, 65504)


def test_a_voxel_without_embedding_has_token_zero_and_its_neighbours_keep_theirs(ndim, random):
    model = TokenModel(random.normal(size=(5, 3)).astype(np.float32))
    embedding = random.normal(size=(3, *[6] * ndim)).astype(np.float32)
    whole = assign(model, embedding)
    masked = random.random([6] * ndim) < 0.3
    embedding[random.integers(3), masked] = np.nan
    assert UNASSIGNED == 0
    assert whole.min() >= 1
    np.testing.assert_array_equal(assign(model, embedding), np.where(masked, 0, whole))


def test_as_many_tokens_as_a_byte_can_number(random):
    model = TokenModel(np.arange(255, dtype=np.float32)[:, None])
    np.testing.assert_array_equal(assign(model, np.arange(255, dtype=np.float32)[None]), np.arange(1, 256))


def test_the_same_sample_gives_the_same_tokens(random):
    latents = [random.normal(size=(300, 4)).astype(np.float32) for _ in range(2)]
    intensity = random.normal(size=300).astype(np.float32)
    results = []
    for _ in range(2):
        projection, explained = fit_projection(latents, 3)
        model = fit_tokens(embed(projection, latents), intensity, 5, seed=1)
        results.append([*projection.matrices, projection.offset, explained, model.centroids])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.integers(0, 2**31), st.integers(0, 400), st.integers(0, 5))
@quick
def test_the_sample_is_of_training_voxels_in_rising_order_each_once(seed, size, drawing):
    trains = np.random.default_rng(seed).random((2, 10, 12)) < 0.5
    sample = draw_sample(trains, size, drawing)
    assert len(sample) == min(size, trains.sum())
    assert trains.reshape(-1)[sample].all()
    assert (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, draw_sample(trains, size, drawing))


def test_another_seed_draws_another_sample():
    trains = np.ones((1, 30, 30), bool)
    assert set(draw_sample(trains, 100, 0)) != set(draw_sample(trains, 100, 1))


def test_every_training_voxel_is_drawn_equally_often():
    trains = np.arange(40).reshape(1, 5, 8) % 2 == 0
    drawn = np.concatenate([draw_sample(trains, 5, seed) for seed in range(2000)])
    counts = np.bincount(drawn, minlength=40)[trains.reshape(-1)]
    # 500 expected each, standard deviation 19
    assert np.abs(counts - 500).max() < 5 * 19.4
