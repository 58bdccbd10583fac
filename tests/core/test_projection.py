import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from behindthenoise.core.embedding import embed, stored
from behindthenoise.core.projection import fit_projection

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


@given(members(), st.integers(1, 6))
@quick
def test_the_projection_is_block_scaling_then_principal_components(latents, components):
    components = min(components, latents[0].shape[1] * len(latents))
    blocks = [(z - z.mean(0)) / np.sqrt(z.astype(np.float64).var(0).sum()) for z in (part.astype(np.float64) for part in latents)]
    analysis = PCA(components, svd_solver="full").fit(np.concatenate(blocks, axis=1))
    expected = analysis.transform(np.concatenate(blocks, axis=1))
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


def test_latents_without_distinction_give_no_more_weight_than_none(random):
    living = random.normal(size=(1000, 3)).astype(np.float32)
    dead = np.full((1000, 3), 0.1, np.float32)
    projection, _ = fit_projection([living, dead], 3)
    assert not projection.matrices[1].any()


def test_a_stored_embedding_keeps_what_is_masked_and_never_becomes_infinite():
    kept = stored(np.array([np.nan, 0.123456, -1e9, 1e9], np.float32))
    assert np.isnan(kept[0])
    assert kept[1] == pytest.approx(0.123456, rel=2**-11)
    assert (kept[2], kept[3]) == (-65504, 65504)
