"""Verb `tokenize`: embedded sample → the tokens' centroids."""

from pathlib import Path

import numpy as np

from behindthenoise.core import clustering
from behindthenoise.core import tokens as tokenizing
from behindthenoise.errors import ConfigError
from behindthenoise.io.record import log
from behindthenoise.run import models
from behindthenoise.stages import Spec


def run(spec: Spec, *, latents: list[Path], projection: Path, tokens: Path) -> None:
    """Write the centroids."""
    samples = models.read_samples(latents)
    # tokens are numbered by the ensemble's median of the first channel
    median = np.mean([sample.quantiles[1, 0] for sample in samples], axis=0)
    count = spec.get("tokens.count", int)
    if count > len(median):
        raise ConfigError(f"tokens.count is {count}, but only {len(median)} voxels are sampled; ask for fewer tokens")
    sample = tokenizing.embed(models.read_projection(projection), [sample.latents for sample in samples])
    models.write_tokens(tokens, clustering.fit_tokens(sample, median, count, spec.get("tokens.seed", int)))
    log(f"tokenize: {count} tokens from {len(sample)} voxels")
