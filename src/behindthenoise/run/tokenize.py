"""Verb `tokenize`: members' sampled latents and projection → tokens at every level of detail, and how far they can be trusted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from behindthenoise.config import TokensConfig
from behindthenoise.core import clustering
from behindthenoise.core import tokens as tokenizing
from behindthenoise.core.clustering import Sampled, Stability
from behindthenoise.core.colours import FalseColours
from behindthenoise.core.embedding import embed, stored
from behindthenoise.core.tokens import TokenModel, TokenTree
from behindthenoise.errors import ConfigError
from behindthenoise.io import tables
from behindthenoise.io.record import log
from behindthenoise.io.tables import Value
from behindthenoise.run import models, token_models
from behindthenoise.run.models import Sample
from behindthenoise.stages import Spec


def run(spec: Spec, *, latents: list[Path], projection: Path, tokens: Path, stability: Path, table: Path) -> None:
    """Write the tokens, the agreement of other fits at every level, and a table of the tokens."""
    config = spec.part("tokens", TokensConfig)
    samples = models.read_samples(latents)
    sampled = sampled_of(samples)
    median = sampled.intensity
    mapping = models.read_projection(projection)
    points = stored(embed(mapping, sampled.latents))
    distinct = len(np.unique(points, axis=0))
    if config.least > distinct:
        raise ConfigError(
            f"tokens.count is {config.count}, but the latents of {len(median)} sampled voxels have {distinct} different values; "
            "ask for fewer tokens, or train longer"
        )
    finest = config.finest_of(distinct)
    tree = clustering.fit_tree(points.astype(np.float32), sampled.pairs, median, finest, config.seed)
    log(f"tokenize: {finest} finest tokens from {len(median)} voxels and {len(sampled.pairs)} pairs of them")
    found = clustering.stability(sampled, tree, len(mapping.offset), config.seed)
    count = clustering.choose_count(found, tree.memory) if config.count == "auto" else config.count
    model = clustering.model_of(tree, count, points)
    colours = FalseColours.of_sample(points, models.read_explained(projection))
    token_models.write(tokens, model, familiar_of(samples, points, count, config), colours)
    labels = tokenizing.assign(model, points.T)
    again = clustering.token_stability(found, labels, count)
    tables.write(stability, levels_of(tree, found))
    tables.write(table, tokens_of(model, labels, median, again))
    chosen = "as configured" if config.count != "auto" else "found"
    agreed = "agreed on" if clustering.agreed_on(found)[count - 1] else "NOT agreed on"
    seeds, halves = found.seeds[count - 1], found.halves[count - 1]
    log(f"tokenize: {count} tokens, {chosen}, {agreed}: seeds agree by {seeds:.2f}, halves by {halves:.2f}")


def sampled_of(samples: Sequence[Sample]) -> Sampled:
    """What tokens are fitted to; they are numbered by the ensemble's median of the first channel."""
    median = np.mean([sample.quantiles[1, 0] for sample in samples], axis=0)
    return Sampled([sample.latents for sample in samples], samples[0].pairs, median)


def familiar_of(samples: Sequence[Sample], points: np.ndarray, count: int, config: TokensConfig) -> TokenModel | None:
    """
    Tokens of the training voxels alone, where voxels of volumes took part in the fit of all tokens.

    Novelty is measured from these: what is new in a volume may have tokens of its own, at whose centres it lies.
    """
    if samples[0].trains.all():
        return None
    sampled, known = sampled_of([sample.of_training for sample in samples]), points[samples[0].trains]
    finest = min(config.finest_of(len(known)), len(np.unique(known, axis=0)))
    tree = clustering.fit_tree(known.astype(np.float32), sampled.pairs, sampled.intensity, finest, config.seed)
    return clustering.model_of(tree, min(count, finest), known)


def levels_of(tree: TokenTree, found: Stability) -> list[dict[str, Value]]:
    """One row for each number of tokens from 2 on."""
    agreed = clustering.agreed_on(found)
    return [
        {
            "tokens": index + 1,
            "memory": float(tree.memory[index]),
            "agreement_of_seeds": float(found.seeds[index]),
            "agreement_of_halves": float(found.halves[index]),
            "agreement_with_next": float(found.neighbours[index]),
            "agreed_on": "yes" if agreed[index] else "no",
        }
        for index in range(1, len(tree.levels))
    ]


def tokens_of(model: TokenModel, labels: np.ndarray, median: np.ndarray, again: np.ndarray) -> list[dict[str, Value]]:
    """One row for each token."""
    return [
        {
            "token": token,
            "share": float((labels == token).mean()),
            "intensity": float(median[labels == token].mean()) if (labels == token).any() else float("nan"),
            "stability": float(again[token - 1]),
            "verdict": clustering.verdict(float(again[token - 1])),
            "finest": " ".join(str(index) for index in np.flatnonzero(model.token_of == token) + 1),
        }
        for token in range(1, model.count + 1)
    ]
