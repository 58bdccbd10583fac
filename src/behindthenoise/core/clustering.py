"""Fits of tokens on sampled voxels, and how far other fits agree with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Real, UInt8
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from behindthenoise.core.embedding import embed
from behindthenoise.core.projection import fit_projection
from behindthenoise.core.tokens import TokenModel, TokenTree, nearest

STARTS = 10  # of k-means; the best is kept
SEEDS = 4  # other seeds that a clustering is compared with: one alone may agree or differ by chance
STEPS = 4  # of the walk that decides which tokens are joined
STABLE = 0.9  # agreement of seeds, and of halves of the ensemble, from which on a number of tokens counts as found


@dataclass(frozen=True, eq=False)
class Sampled:
    """
    What tokens are fitted to.

    Attributes
    ----------
    latents
        For each member, the latents of the sampled voxels.
    pairs
        Places of two sampled voxels that are each other's company.
    intensity
        Predicted median of the first channel, which numbers the tokens.
    """

    latents: Sequence[Float[np.ndarray, " n latent"]]
    pairs: Int[np.ndarray, " pair 2"]
    intensity: Float[np.ndarray, " n"]


def fit_tree(
    embedding: Float[np.ndarray, " n component"],
    pairs: Int[np.ndarray, " pair 2"],
    intensity: Float[np.ndarray, " n"],
    finest: int,
    seed: int,
) -> TokenTree:
    """
    Tokens at every level of detail: many by k-means, then step by step the two are joined that keep the same company.

    Two voxels keep company if they are 2 to 5 voxels apart. A walk from voxel to voxel of the company forgets, after some steps,
    what differs by noise alone or takes turns in a texture, and remembers the material: tokens from which it goes to the same
    places are joined, however far apart they lie in the embedding, and tokens of different materials are not, however near.

    Parameters
    ----------
    finest
        Tokens of the finest level; no more than there are sampled voxels.

    References
    ----------
    Coifman & Lafon (2006), Applied and Computational Harmonic Analysis 21, 5-30, for distances of a diffusion;
    Ward (1963), JASA 58, 236-244, for the order of joining.
    """
    clusters = KMeans(finest, n_init=STARTS, random_state=seed).fit(embedding)
    sizes = np.bincount(clusters.labels_, minlength=finest)
    means = np.bincount(clusters.labels_, weights=intensity, minlength=finest) / np.maximum(sizes, 1)
    order = np.argsort(means, kind="stable")
    labels = np.argsort(order)[clusters.labels_]
    coordinates, memory = diffusion(labels, pairs, finest)
    joined = join(coordinates, sizes[order])
    levels = np.stack([_numbered(row, sizes[order] * means[order], sizes[order]) for row in joined])
    return TokenTree(clusters.cluster_centers_[order].astype(np.float32), sizes[order], levels, memory)


def diffusion(
    labels: Int[np.ndarray, " n"], pairs: Int[np.ndarray, " pair 2"], count: int
) -> tuple[Float64[np.ndarray, " token coordinate"], Float64[np.ndarray, " token"]]:
    """
    Coordinates of tokens, from 0, whose distances are those between the ends of walks of some steps, and the memory of one step.

    A token without company is a place of its own. The memory is that of `TokenTree`.
    """
    one, other = labels[pairs].T
    counts = np.bincount(one * count + other, minlength=count**2).reshape(count, count).astype(np.float64)
    counts += counts.T + np.eye(count)
    shares = counts.sum(axis=1) / counts.sum()
    values, vectors = np.linalg.eigh(counts / counts.sum() / np.sqrt(shares[:, None] * shares))
    # the largest eigenvalue is that of the state in which nothing is remembered
    memory = np.clip(values[::-1], 0, 1)
    return vectors[:, -2::-1] / np.sqrt(shares)[:, None] * memory[1:] ** STEPS, memory


def join(points: Float[np.ndarray, " n d"], weights: Real[np.ndarray, " n"]) -> Int[np.ndarray, " level n"]:
    """
    Partitions of weighted points into 1, 2, ... n clusters, each from the next by Ward's criterion: the smallest rise in variance.

    Returns
    -------
    Int[np.ndarray, " level n"]
        Row k - 1 names, for k clusters, the cluster of each point by its first point.
    """
    centres, masses = points.astype(np.float64), np.maximum(weights, 1e-9).astype(np.float64)
    alive, cluster = np.arange(len(points)), np.arange(len(points))
    rows = [cluster.copy()]
    while alive.size > 1:
        gaps = ((centres[alive, None] - centres[None, alive]) ** 2).sum(axis=-1)
        mass = masses[alive]
        rises = gaps * mass[:, None] * mass / (mass[:, None] + mass)
        np.fill_diagonal(rises, np.inf)
        kept, gone = sorted(alive[list(np.unravel_index(rises.argmin(), rises.shape))])
        centres[kept] = (masses[kept] * centres[kept] + masses[gone] * centres[gone]) / (masses[kept] + masses[gone])
        masses[kept] += masses[gone]
        cluster[cluster == gone] = kept
        alive = alive[alive != gone]
        rows.append(cluster.copy())
    return np.array(rows[::-1])


def _numbered(
    cluster: Int[np.ndarray, " n"], sums: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, " n"]:
    """Numbers from 1 for clusters of points, by rising mean."""
    names, index = np.unique(cluster, return_inverse=True)
    means = np.bincount(index, weights=sums) / np.maximum(np.bincount(index, weights=sizes), 1)
    ranks = np.empty(len(names), np.uint8)
    ranks[np.argsort(means, kind="stable")] = np.arange(1, len(names) + 1)
    return ranks[index]


def model_of(tree: TokenTree, count: int, embedding: Float[np.ndarray, " n component"]) -> TokenModel:
    """Tokens at the level of a tree that has `count` of them, with the distances of sampled voxels."""
    finest, distances = nearest(tree, embedding.T)
    tokens = tree.levels[count - 1][finest.astype(int) - 1]
    return TokenModel(tree, count, tuple(np.sort(distances[tokens == token]) for token in range(1, count + 1)))


@dataclass(frozen=True, eq=False)
class Stability:
    """
    How far tokens depend on what they should not depend on.

    Attributes
    ----------
    seeds
        For each level, adjusted Rand index between the tokens and those of other seeds of the clustering, on average.
    halves
        The same between the tokens of one half of the members and those of the other half; NaN with fewer than two members.
    neighbours
        The same between a level and the next finer one; NaN for the finest.
    others
        Tokens of every sampled voxel by another seed and by both halves, (fit, level, n).
    """

    seeds: Float[np.ndarray, " level"]
    halves: Float[np.ndarray, " level"]
    neighbours: Float[np.ndarray, " level"]
    others: UInt8[np.ndarray, " fit level n"]


def stability(sampled: Sampled, tree: TokenTree, components: int, seed: int) -> Stability:
    """
    Agreement of a tree with those of other seeds, and of the trees of two halves of the ensemble with each other.

    References
    ----------
    Hubert & Arabie (1985), Journal of Classification 2, 193-218, for the adjusted Rand index.
    """
    members = range(len(sampled.latents))
    own, finest = _levels(sampled, members, components, tree), len(tree.levels)

    def fitted(chosen: Sequence[int], other: int) -> UInt8[np.ndarray, " level n"]:
        points = _embedded(sampled, chosen, components)
        return _levels(sampled, chosen, components, fit_tree(points, sampled.pairs, sampled.intensity, finest, other % 2**32))

    seeds = [fitted(members, seed + number) for number in range(1, SEEDS + 1)]
    halves = [fitted(members[start::2], seed) for start in (0, 1)] if len(members) > 1 else []
    return Stability(
        np.mean([_agreement(own, other) for other in seeds], axis=0),
        _agreement(*halves) if halves else np.full(finest, np.nan),
        np.append(_agreement(own[:-1], own[1:]), np.nan),
        np.stack([seeds[0], *halves]),
    )


def choose_count(found: Stability, memory: Float[np.ndarray, " level"]) -> int:
    """
    Number of tokens, two at least, that is found and not chosen.

    Of those that seeds and halves of the ensemble agree on, the one after which a walk through the image forgets most at once;
    where they agree on none, the same of all. `agreed_on` says which case it is.
    """
    falls, good = memory[1:] - np.append(memory[2:], 0), agreed_on(found)[1:]
    return int(np.where(good | ~good.any(), falls, -1).argmax()) + 2


def agreed_on(found: Stability) -> Bool[np.ndarray, " level"]:
    """Numbers of tokens, from 1, that other seeds agree on, and halves of the ensemble where there are any."""
    return np.asarray(np.fmin(found.seeds, found.halves) >= STABLE)


def token_stability(found: Stability, tokens: UInt8[np.ndarray, " n"], count: int) -> Float64[np.ndarray, " token"]:
    """
    How well each token is found again by other fits: its Jaccard index with the most similar token, averaged over the fits.

    References
    ----------
    Hennig (2007), Computational Statistics & Data Analysis 52, 258-271: above 0.75 found again, below 0.5 dissolved.
    """
    shares = []
    for other in found.others[:, count - 1]:
        both = np.zeros((count + 1, count + 1))
        np.add.at(both, (tokens, other), 1)
        either = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
        shares.append((both / np.maximum(either, 1))[1:].max(axis=1))
    return np.asarray(np.mean(shares, axis=0))


def verdict(jaccard: float) -> str:
    """What a token's stability means, in the words of Hennig (2007)."""
    return "found again" if jaccard >= 0.75 else "unsure" if jaccard >= 0.5 else "dissolves: noise, or part of another token"


def _embedded(sampled: Sampled, members: Sequence[int], components: int) -> Float[np.ndarray, " n component"]:
    """Embedding by some of the members alone."""
    chosen = [sampled.latents[member] for member in members]
    return embed(fit_projection(chosen, components)[0], chosen)


def _levels(sampled: Sampled, members: Sequence[int], components: int, tree: TokenTree) -> UInt8[np.ndarray, " level n"]:
    """Token of every sampled voxel at every level of a tree."""
    finest, _ = nearest(tree, _embedded(sampled, members, components).T)
    return np.asarray(tree.levels[:, finest.astype(int) - 1])


def _agreement(one: UInt8[np.ndarray, " level n"], other: UInt8[np.ndarray, " level n"]) -> Float64[np.ndarray, " level"]:
    """Adjusted Rand index, level by level."""
    return np.array([adjusted_rand_score(*rows) for rows in zip(one, other, strict=True)])
