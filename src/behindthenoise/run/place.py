"""Verb `place`: what sources and the configuration say of a volume → where its voxels lie, and how large they are."""

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

from behindthenoise.config import PairsConfig, Selection, VolumeConfig
from behindthenoise.io import units, volumes
from behindthenoise.io.geometry import Axes, Geometry, placed, told_positions, write_geometry
from behindthenoise.io.record import log
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.pairs import Told, better_told
from behindthenoise.stages import VOLUME, Spec


def run(spec: Spec, *, pairs: Path, volume: Path, geometry: Path, name: str) -> None:
    """Write the geometry of one volume; networks know nothing of it."""
    like = spec.find("pairs", PairsConfig)
    found = trained = of_pairs(like, store_of_pairs.read_axes(pairs), store_of_pairs.read_told(pairs))
    config = spec.find(VOLUME, VolumeConfig)
    if config is None:
        tell_contradictions(like, trained, store_of_pairs.read_told(pairs))
    else:
        told = volumes.open_input(volume).told
        found = of_volume(config, like, trained, told)
        tell_disbelief(found, told, f"volume {name}")
        tell_other_voxels(found, trained, name)
    log(f"place: volume {name}: voxels of {found.voxel}, the first at {' '.join(f'{place:.8g}' for place in found.origin)}")
    write_geometry(geometry, found)


def of_pairs(config: PairsConfig | None, axes: Axes, told: Told) -> Geometry:
    """
    Geometry of the pairs' field; of a generated one (None), in voxels.

    Parameters
    ----------
    told
        By the sources `noisy` and `clean`, of their voxels.

    Raises
    ------
    SourceError
        If the config names an axis that is not there, or the spacing of some axes alone.
    """
    if config is None:
        return axes.measured([1.0] * len(axes.space))
    return placed(axes.measured(unit=config.unit), better_told(told), config, config.spacing)


def of_volume(config: VolumeConfig, like: PairsConfig | None, trained: Geometry, told: Mapping[str, Any]) -> Geometry:
    """
    Geometry of a volume, which has the voxels of the pairs where nobody tells any.

    Raises
    ------
    SourceError
        If the config names an axis that is not there, or the spacing of some axes alone.
    """
    spacing = config.spacing or (like.spacing if like is not None else {})
    return placed(trained.measured(trained.spacing, trained.unit), told, config, spacing)


def tell_contradictions(config: PairsConfig | None, trained: Geometry, told: Told) -> None:
    """Say so where fast and slow scan, or the configuration, contradict each other."""
    if config is None:
        return
    for source in told.values():
        tell_disbelief(trained, source, "the pairs")
    placed_by = [source for source in told.values() if "position" in source]
    if len(placed_by) == 2:
        unit = str(placed_by[0].get("unit", trained.unit))
        first, second = (told_positions(source, unit) for source in placed_by)
        if any(not isclose(first[axis], second[axis], rel_tol=1e-6, abs_tol=1e-9) for axis in set(first) & set(second)):
            names = " and ".join(source["origin"] for source in placed_by)
            log(f"warning: {names} begin at other places, {dict(first)} and {dict(second)} {unit}")


def tell_disbelief(found: Geometry, told: Mapping[str, Any], who: str) -> None:
    """Say so if a source tells sizes or places that are not believed."""
    if by_file := told_otherwise(found, told):
        log(f"warning: voxels of {who} are taken to be {found.voxel}, those of {told['origin']} are {by_file}")
    if "position" in told and units.ratio(told.get("unit", found.unit), found.unit) is None:
        log(f"warning: the place that {told['origin']} tells is in {told['unit']}, which is not so many {found.unit}: not believed")


def told_otherwise(found: Geometry, told: Mapping[str, Any]) -> str:
    """Size of a voxel as a source tells it, if that is not what it is taken to be; else nothing."""
    if not set(found.space) <= set(told.get("spacing", ())):
        return ""
    by_file = placed(found.measured(unit=found.unit), told, Selection(), {})
    return by_file.voxel if by_file.differs(found) else ""


def tell_other_voxels(own: Geometry, trained: Geometry, name: str) -> None:
    """Say so if a volume's voxels are not of the size that the networks learned on."""
    if own.differs(trained):
        log(
            f"place: warning: volume {name} has voxels of {own.voxel}, the training pairs of {trained.voxel}; networks know what "
            "they learned in voxels, so structures of another size in voxels are new to them (give `spacing` if a file is wrong)"
        )
