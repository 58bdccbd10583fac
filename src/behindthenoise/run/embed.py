"""Verb `embed`: members' sampled latents → the projection of the joined latents."""

from pathlib import Path

from behindthenoise.core.projection import fit_projection
from behindthenoise.io.record import log
from behindthenoise.run import models
from behindthenoise.stages import Spec


def run(spec: Spec, *, latents: list[Path], projection: Path) -> None:
    """Write the projection."""
    vectors = [sample.latents for sample in models.read_samples(latents)]
    fitted, explained = fit_projection(vectors, spec.get("tokens.components", int))
    log(f"embed: {len(vectors[0])} voxels, {len(explained)} components hold {explained.sum():.1%} of the latents' variance")
    models.write_projection(projection, fitted, explained)
