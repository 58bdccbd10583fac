import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from behindthenoise.core import tokens
from behindthenoise.core.clustering import (
    Sampled,
    Stability,
    agreed_on,
    choose_count,
    diffusion,
    fit_tree,
    join,
    model_of,
    stability,
    token_stability,
    verdict,
)
from behindthenoise.core.embedding import embed
from behindthenoise.core.projection import fit_projection
from behindthenoise.core.sampling import draw_sample
from behindthenoise.core.tokens import UNASSIGNED, TokenModel, assign, nearest, novelty

quick = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


def blobs(seed, count=4, size=400, components=3):
    """Points around well separated centres, and the number of the centre of each."""
    random = np.random.default_rng(seed)
    centres = 20 * random.normal(size=(count, components))
    cluster = random.integers(count, size=size)
    return (centres[cluster] + random.normal(size=(size, components))).astype(np.float32), cluster


@given(st.integers(0, 2**31), st.integers(1, 255), st.integers(1, 5), st.integers(1, 3))
@quick
def test_a_voxel_has_the_finest_token_whose_centroid_is_nearest(seed, count, components, ndim):
    random = np.random.default_rng(seed)
    model = TokenModel.of_centroids(random.normal(size=(count, components)))
    embedding = random.normal(size=(components, *[7] * ndim)).astype(np.float32)
    gaps = ((embedding[:, None] - model.tree.centroids.T.reshape(components, count, *[1] * ndim)) ** 2).sum(axis=0)
    finest, distances = nearest(model.tree, embedding)
    chosen = np.take_along_axis(gaps, finest[None].astype(int) - 1, axis=0)[0]
    np.testing.assert_allclose(chosen, gaps.min(axis=0), atol=1e-5)
    np.testing.assert_allclose(distances, gaps.min(axis=0), atol=1e-5)
    np.testing.assert_array_equal(assign(model, embedding), finest)


def test_pieces_change_no_token(random, monkeypatch):
    model, embedding = TokenModel.of_centroids(random.normal(size=(9, 3))), random.normal(size=(3, 50, 60)).astype(np.float32)
    whole = nearest(model.tree, embedding)
    monkeypatch.setattr(tokens, "DISTANCES", 1)
    monkeypatch.setattr(tokens, "SMALLEST", 7)
    for found, expected in zip(nearest(model.tree, embedding), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def striped(seed):
    """
    Two materials of one mean: an even one, and one of bright and dark stripes; a third is far from both.

    Each voxel's latent is its noisy level. Returns the levels, the truth, and the sample.
    """
    random = np.random.default_rng(seed)
    truth = np.zeros((6, 40, 60), int)
    truth[:, :, 20:40], truth[:, :, 40:] = 1, 2
    stripes = np.where(np.arange(60) // 2 % 2, 1.0, -1.0)
    level = np.choose(truth, [np.zeros(60), stripes, np.full(60, 5.0)]) + 0.1 * random.normal(size=truth.shape)
    return level.astype(np.float32), truth, draw_sample(np.ones(truth.shape, bool), 6000, seed)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_that_take_turns_in_a_texture_are_joined_before_even_ones(seed):
    level, truth, drawn = striped(seed)
    points = level.ravel()[drawn.voxels, None]
    tree = fit_tree(points, drawn.pairs, points[:, 0], 8, seed)
    found = assign(model_of(tree, 3, points), level.reshape(1, -1))
    by_level = KMeans(3, n_init=5, random_state=seed).fit_predict(level.reshape(-1, 1))
    assert adjusted_rand_score(truth.ravel(), found) > 0.95
    assert adjusted_rand_score(truth.ravel(), by_level) < 0.8


@given(st.integers(0, 2**31), st.integers(2, 12))
@quick
def test_levels_are_nested_and_numbered_by_rising_mean_intensity(seed, finest):
    points, _ = blobs(seed % 1000, size=200)
    intensity = np.random.default_rng(seed).normal(size=200)
    pairs = np.random.default_rng(seed).integers(200, size=(500, 2))
    tree = fit_tree(points, pairs, intensity, finest, seed=0)
    assert tree.levels.shape == (finest, finest)
    assert tree.sizes.sum() == 200
    own = nearest(tree, points.T)[0].astype(int) - 1
    for count, row in enumerate(tree.levels, start=1):
        assert set(row) == set(range(1, count + 1))
        means = [intensity[row[own] == token].mean() for token in range(1, count + 1)]
        assert means == sorted(means)
    for coarse, fine in itertools.pairwise(tree.levels):
        assert len(set(zip(coarse, fine, strict=True))) == fine.max(), "a token lies in one token of the coarser level"


@given(st.integers(0, 2**31), st.integers(2, 10))
@quick
def test_ward_joins_what_adds_least_to_the_variance(seed, count):
    random = np.random.default_rng(seed)
    points, weights = random.normal(size=(count, 3)), random.uniform(0.5, 3, count)

    def scatter(partition):
        return sum(
            weights[partition == part]
            @ (
                (points[partition == part] - np.average(points[partition == part], axis=0, weights=weights[partition == part])) ** 2
            ).sum(1)
            for part in set(partition)
        )

    rows = join(points, weights)
    for coarse, fine in itertools.pairwise(rows):
        options = [np.where(fine == one, other, fine) for one, other in itertools.combinations(sorted(set(fine)), 2)]
        assert scatter(coarse) == pytest.approx(min(map(scatter, options)))


def test_memory_is_what_neighbours_share():
    labels = np.repeat([0, 1], 500)
    alone = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)
    _, memory = diffusion(labels, alone, 2)
    assert memory == pytest.approx([1, 1], abs=0.01)
    random = np.random.default_rng(0)
    _, mixed = diffusion(labels, random.integers(1000, size=(20000, 2)), 2)
    assert mixed == pytest.approx([1, 0], abs=0.03)


def agreement(seeds, halves, others=None):
    none = np.full(len(seeds), np.nan)
    others = np.ones((1, len(seeds), 1)) if others is None else others
    return Stability(np.array(seeds, float), np.array(halves, float), none, others.astype(np.uint8))


@pytest.mark.parametrize(
    ("seeds", "halves", "memory", "count"),
    [
        ([1, 0.99, 0.98, 0.97, 0.5], [1, 0.95, 0.95, 0.92, 0.4], [1, 0.9, 0.8, 0.4, 0.3], 3),
        ([1, 0.99, 0.98, 0.97, 0.5], [1, 0.95, 0.6, 0.92, 0.4], [1, 0.9, 0.8, 0.4, 0.3], 4),
        # they agree on none
        ([1, 0.99, 0.98, 0.97, 0.5], [1, 0.3, 0.4, 0.5, 0.6], [1, 0.9, 0.8, 0.4, 0.1], 3),
        ([1, 0.5, 0.6, 0.4], [1, 0.3, 0.7, 0.8], [1, 0.9, 0.5, 0.3], 2),
        ([1, 0.95, 0.2], [1, np.nan, np.nan], [1, 0.5, 0.1], 2),
    ],
)
def test_the_count_is_where_the_memory_falls_most_of_those_that_are_agreed_on(seeds, halves, memory, count):
    assert choose_count(agreement(seeds, halves), np.array(memory)) == count


def test_a_number_is_agreed_on_by_seeds_and_by_halves_where_there_are_any():
    assert agreed_on(agreement([1, 0.95, 0.95, 0.8], [1, 0.95, 0.8, 0.95])).tolist() == [True, True, False, False]
    assert agreed_on(agreement([1, 0.95, 0.8], [np.nan] * 3)).tolist() == [True, True, False]


def test_the_stability_of_a_token_is_its_jaccard_index_with_the_most_similar_one():
    own = np.repeat(np.array([1, 2, 3], np.uint8), [60, 30, 10])
    same = np.choose(own - 1, [2, 3, 1])
    split = own.copy()
    split[:30] = 2
    others = np.stack([np.stack([np.ones(100, int), np.ones(100, int), other]) for other in (same, split)])
    found = token_stability(agreement([1, 1, 1], [1, 1, 1], others), own, 3)
    np.testing.assert_allclose(found, [(1 + 0.5) / 2, (1 + 0.5) / 2, 1])
    assert [verdict(value) for value in (0.8, 0.6, 0.3)] == ["found again", "unsure", "dissolves: noise, or part of another token"]


def test_halves_agree_on_what_is_there_and_not_on_noise():
    level, _, drawn = striped(0)
    random = np.random.default_rng(1)
    clear = [(sign * level.ravel()[drawn.voxels, None]).astype(np.float32) for sign in (1, -2, 3, 1)]
    noise = [random.normal(size=(drawn.voxels.size, 2)).astype(np.float32) for _ in range(4)]
    agreed = []
    for latents in (clear, noise):
        sampled = Sampled(latents, drawn.pairs, level.ravel()[drawn.voxels])
        mapping, _ = fit_projection(latents, 2)
        points = embed(mapping, latents)
        tree = fit_tree(points, drawn.pairs, sampled.intensity, 8, 0)
        agreed.append(stability(sampled, tree, 2, 0).halves[2])
    assert agreed[0] > 0.95
    assert agreed[1] < 0.3


def test_seeds_agree_as_several_others_do_on_average():
    random = np.random.default_rng(1)
    latents = [random.normal(size=(400, 2)).astype(np.float32) for _ in range(2)]
    sampled = Sampled(latents, random.integers(0, 400, size=(3000, 2)), random.normal(size=400))
    points = embed(fit_projection(latents, 2)[0], latents)
    trees = [fit_tree(points, sampled.pairs, sampled.intensity, 6, seed) for seed in range(5)]
    own, *others = (tree.levels[:, nearest(tree, points.T)[0].astype(int) - 1] for tree in trees)
    agreement = [[adjusted_rand_score(own[level], other[level]) for level in range(6)] for other in others]
    found = stability(sampled, trees[0], 2, 0)
    np.testing.assert_allclose(found.seeds, np.mean(agreement, axis=0))
    assert np.std(agreement, axis=0).max() > 0.01, "one of them would not do"
    np.testing.assert_array_equal(found.others[0], others[0])


def test_one_in_a_hundred_of_what_is_not_new_is_beyond_a_novelty_of_99_percent():
    random = np.random.default_rng(0)
    points = random.normal(size=(20000, 2)).astype(np.float32)
    tree = TokenModel.of_centroids(np.array([[-1.0, 0], [1, 0]])).tree
    model = model_of(tree, 2, points[:10000])
    finest, distances = nearest(tree, points[10000:].T)
    found = novelty(model, finest, distances)
    assert (found > 0.99).mean() == pytest.approx(0.01, abs=0.004)
    far, gap = nearest(tree, np.array([[9.0], [9]], np.float32))
    assert novelty(model, far, gap)[0] > 0.999
    assert np.isnan(novelty(model, np.zeros(1, np.uint8), np.full(1, np.nan, np.float32)))[0]


def test_a_voxel_without_embedding_has_token_zero_and_its_neighbours_keep_theirs(ndim, random):
    model = TokenModel.of_centroids(random.normal(size=(5, 3)).astype(np.float32))
    embedding = random.normal(size=(3, *[6] * ndim)).astype(np.float32)
    whole = assign(model, embedding)
    masked = random.random([6] * ndim) < 0.3
    embedding[random.integers(3), masked] = np.nan
    assert UNASSIGNED == 0
    assert whole.min() >= 1
    np.testing.assert_array_equal(assign(model, embedding), np.where(masked, 0, whole))


def test_as_many_tokens_as_a_byte_can_number(random):
    model = TokenModel.of_centroids(np.arange(255, dtype=np.float32)[:, None])
    np.testing.assert_array_equal(assign(model, np.arange(255, dtype=np.float32)[None]), np.arange(1, 256))


def test_the_same_sample_gives_the_same_tokens(random):
    latents = [random.normal(size=(300, 4)).astype(np.float32) for _ in range(2)]
    intensity = random.normal(size=300).astype(np.float32)
    results = []
    for _ in range(2):
        projection, explained = fit_projection(latents, 3)
        tree = fit_tree(embed(projection, latents), random.integers(300, size=(0, 2)), intensity, 5, seed=1)
        results.append([*projection.matrices, projection.offset, explained, *vars(tree).values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
