"""Verb `gather`: stores and tables → the small arrays and facts that the report shows."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr

from behindthenoise import __version__
from behindthenoise.config import CalibrationConfig, EnsembleConfig, NetworkConfig
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.split import ROLES, shown_image, shown_plane, units_of
from behindthenoise.io import stores, tables
from behindthenoise.io import volumes as volumes_io
from behindthenoise.io.finished import EMBEDDING
from behindthenoise.io.geometry import UNNAMED, Geometry, read_geometry
from behindthenoise.io.npz import read_npz, write_npz
from behindthenoise.io.record import environment, read_json, run_record, write_json
from behindthenoise.run import pairs as store_of_pairs
from behindthenoise.run.evaluate import TABLES
from behindthenoise.run.pairs import Stored
from behindthenoise.run.place import told_otherwise
from behindthenoise.stages import Spec

LISTED = 10  # regions of each list
DRAWN_EDGE = 1024  # voxels along an axis of a slice; a page cannot show more
# What the report calls the tables of the evaluation; its `tokens` are what each token is made of.
EVALUATED = {**{name: name for name in TABLES}, "tokens": "token_coverage"}
KINDS = {"smsnet": "randomly wired networks", "unet": "U-Nets of random size"}
SIDES = {1: ("both",), 2: ("below", "above")}  # of the interval, by the number of thresholds that the score has


def run(
    spec: Spec,
    *,
    pairs: Path,
    evaluation: Path,
    certificate: Path,
    volumes: list[Path],
    geometries: list[Path],
    shifts: list[Path],
    descriptions: list[Path],
    regions: list[Path],
    stability: Path,
    records: list[Path],
    graphs: list[Path],
    content: Path,
) -> list[Path]:
    """Write `content.json`, and the arrays beside it as `slices.npz`; returns these."""
    loaded, signed = store_of_pairs.opened(pairs), read_json(certificate)
    placed = {path.parent.name: read_geometry(path) for path in geometries}
    finished = {path.name.removesuffix(".ome.zarr"): path for path in volumes}
    arrays: dict[str, np.ndarray] = {}
    metas = []
    # the training field first: it is the one with a clean reference
    for name in sorted(finished, key=lambda name: (name != "field", name)):
        meta, found = cut(name, finished[name], loaded, placed)
        metas.append(meta)
        arrays |= {f"{name}/{key}": values for key, values in found.items()}
    lists = []
    for path in regions:
        volume = path.parent.parent.name
        lists.append({"volume": volume, "facts": read_json(path), "rows": tables.read(path.with_suffix(".csv"))[:LISTED]})
        view = read_npz(path.with_suffix(".npz"))
        arrays |= {f"{volume}/{path.stem}/{key}": view[key] for key in ("median", "regions")}
    write_json(
        content,
        {
            "dataset": spec.get("dataset", str),
            "version": __version__,
            "created": environment()["finished"],
            "facts": facts(spec, loaded, [read_json(path) for path in records], [read_json(run_record(path)) for path in records]),
            "certificate": promised(signed),
            "coverage": spec.get("calibration", CalibrationConfig).coverage,
            **{shown: tables.read(evaluation / f"{name}.csv") for name, shown in EVALUATED.items()},
            "tokens": {path.parent.name: tables.read(path) for path in descriptions}["field"],
            "token_colours": colours_of(stores.open_group(finished["field"])),
            "stability": tables.read(stability),
            "displaced": list(loaded.displaced),
            "regions": [{**found, "name": path.stem} for found, path in zip(lists, regions, strict=True)],
            "slices": metas,
            # in the order of the slices
            "checks": sorted((read_json(path) for path in shifts), key=lambda check: (check["volume"] != "field", check["volume"])),
            "architecture": read_json(graphs[0]),
            "config_text": yaml.safe_dump(spec.sections, sort_keys=False, allow_unicode=True),
        },
    )
    slices = content.with_name("slices.npz")
    write_npz(slices, arrays)
    return [slices]


def cut(name: str, finished: Path, pairs: Stored, placed: Mapping[str, Geometry]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of one plane of a volume: the whole of a 2D field, in 3D the middle, or where the pairs are tested."""
    group, given = stores.open_group(finished), volumes_io.open_input(finished.parent / name / "input.zarr")
    geometry, trained = placed[name], placed["field"]
    lead = len(given.shape) - 2
    role = pairs.split.role[shown_image(pairs.split)] if name == "field" else None
    plane = tuple(size // 2 for size in given.shape[:lead]) if role is None else shown_plane(role)
    rows, columns = (slice(0, None, -(-size // DRAWN_EDGE)) for size in given.shape[lead:])
    where: tuple[int | slice, ...] = (*plane, rows, columns)
    shown = len(geometry.channels), len(volumes_io.STATISTICS)
    bands = np.asarray(stores.whole_array(group, "0")[(slice(0, math.prod(shown)), *where)])
    bands = bands.reshape(*shown, *bands.shape[1:])
    mask = np.asarray(given.mask[where]).astype(bool)
    noisy = pairs.scale.match_noisy(np.asarray(given.noisy[(slice(None), *where)]), axis=0)
    arrays = {
        "noisy": np.where(mask, noisy, np.nan).astype(np.float32),
        **{key: bands[:, index] for index, key in enumerate(("lower", "median", "upper"))},
        "tokens": np.asarray(stores.whole_array(group, "labels/tokens/0")[where]),
        "colours": np.asarray(stores.whole_array(group, f"{EMBEDDING}/0")[(slice(None), *where)]),
    }
    if role is not None:
        arrays["clean"] = np.asarray(pairs.clean[(shown_image(pairs.split), slice(None), *where)])
        arrays["role"] = role[where]
    meta = {
        "name": name,
        "title": f"{name}{position_of(geometry, plane, given.shape)}",
        "channel_names": geometry.channels,
        "value_unit": geometry.value_unit,
        "length_unit": geometry.unit,
        "spacing": [step * part.step for step, part in zip(geometry.spacing[lead:], (rows, columns), strict=True)],
        "origin": geometry.origin[lead:],
        "axes": geometry.space[lead:],
        "unlike": unlike(geometry, trained, [given.told] if name != "field" else list(pairs.told.values())),
        "unnamed": bool(given.told.get(UNNAMED)),
        "explained": group[EMBEDDING].attrs["explained"],
    }
    return meta, arrays


def unlike(geometry: Geometry, trained: Geometry, told: Sequence[Mapping[str, Any]]) -> str:
    """Voxels of a volume beside those of the training pairs and those that its files tell, in words; nothing if all are alike."""
    others = [f"those of the training pairs {trained.voxel}"] if geometry.differs(trained) else []
    others += [f"by {source['origin']} {by_file}" for source in told if (by_file := told_otherwise(geometry, source))]
    # both scans may be in one file
    return ", ".join(dict.fromkeys([geometry.voxel, *others])) if others else ""


def position_of(geometry: Geometry, plane: Sequence[int], shape: Sequence[int]) -> str:
    """Where a plane lies along the axes before its own, in words; nothing of a 2D field."""
    slices = zip(geometry.place_of(plane), plane, shape, strict=False)
    return "".join(f", {place} (slice {index + 1} of {size})" for place, index, size in slices)


def colours_of(group: zarr.Group) -> list[str]:
    """Colour of each token in a finished volume."""
    metadata: Any = group["labels/tokens"].attrs["ome"]
    return ["#{:02x}{:02x}{:02x}".format(*entry["rgba"][:3]) for entry in metadata["image-label"]["colors"]]


def facts(spec: Spec, pairs: Stored, members: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, str]:
    """What was run, in words."""
    network, ensemble = spec.get("network", NetworkConfig), spec.get("ensemble", EnsembleConfig)
    parameters, radii = [row["parameters"] for row in members], [row["radius"] for row in members]
    sizes = {name: (int((pairs.split.role == role).sum()), len(units_of(pairs.split, role))) for name, role in ROLES.items()}
    versions = environment()["packages"]
    images, scans = pairs.noisy.shape[:2]
    seconds, peaks = [row["seconds"] for row in runs], [row["peak_memory_bytes"] for row in runs]
    return {
        "Fields": f"{images} of {' x '.join(map(str, pairs.shape))} voxels; fast scans of each: {scans}",
        "Channels": ", ".join(pairs.axes.channels),
        "Fast scans": "; ".join(
            f"{name}: {gain:.4g} times the slow scan {offset:+.3g}"
            for name, gain, offset in zip(pairs.axes.channels, pairs.scale.gain, pairs.scale.offset, strict=True)
        )
        + " (taken back before they are compared with anything)",
        "Ensemble": f"{len(members)} {KINDS[network.kind]}, seed {ensemble.seed}, latent {network.latent}",
        "Parameters of a network": span(parameters),
        "Receptive radius": f"{span(radii)} voxels",
        **{
            f"Voxels for {name}": f"{voxels} in {units} {'images' if pairs.gap == 0 else 'blocks'}, in each scan"
            for name, (voxels, units) in sizes.items()
        },
        "Gap between roles": f"{pairs.gap} voxels",
        "Training of a network": f"{span([round(value) for value in seconds])} s, up to {max(peaks) / 1e9:.2f} GB",
        "Packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def span(values: Sequence[int]) -> str:
    """Least and largest of some numbers, or the one that all of them are."""
    least, largest = min(values), max(values)
    return f"{least}" if least == largest else f"{least} to {largest}"


def promised(signed: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate as the report shows it: groups and sides in words, NaN for what does not exist."""
    score = Score(**signed["score"][0])
    rows = [
        {
            "channel": record["channel"],
            "groups": "; ".join(record["groups"]),
            "side": SIDES[score.sides][record["side"]],
            "threshold": record["threshold"],
            "units": record["units"],
            "pixels": record["pixels"],
            "effective_samples": record.get("effective_samples", math.nan),
            "blocks": record.get("blocks", math.nan),
            "rank": record["rank"],
        }
        for record in signed["channels"]
    ]
    others: dict[str, list[float]] = {}
    for record in signed["other_guarantees"]:
        threshold = record["threshold"]
        others.setdefault(record["guarantee"], []).append(math.nan if threshold is None else threshold)
    return {
        "sentence": signed["statement"],
        "assumptions": signed["assumptions"],
        "checked": signed["checked"],
        "warnings": signed["warnings"],
        "merged": signed["merged"],
        "guarantee": signed["guarantee"],
        "grouped_by": signed["basis"]["grouped_by"],
        # Where scores are distances over a predicted width, so are thresholds.
        "threshold_unit": "widths" if score.is_scaled else signed["value_unit"],
        "thresholds": rows,
        # The certificate has its rows in the same order for every guarantee.
        "alternatives": [
            {**{key: row[key] for key in ("channel", "groups", "side")}, **dict(zip(others, found, strict=True))}
            for row, *found in zip(rows, *others.values(), strict=True)
        ],
    }
