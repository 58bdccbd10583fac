"""The finished volume as OME-Zarr: image, labels, false colours, and what viewers are told about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from behindthenoise.io import stores
from behindthenoise.io.geometry import Geometry
from behindthenoise.io.stores import Cut
from behindthenoise.io.volumes import STATISTICS

EMBEDDING = "embedding"  # the group, inside the volume's, of the embedding in false colours
PRIMARIES = ("red", "green", "blue")


@dataclass(frozen=True)
class LabelImage:
    """
    An image of numbers from 1 that belongs to a finished volume; 0 is none.

    Attributes
    ----------
    name
        Of its group below `labels`.
    colours
        Of each number.
    properties
        What is known of each number.
    """

    name: str
    colours: tuple[tuple[int, int, int, int], ...]
    properties: tuple[dict[str, Any], ...]

    @property
    def metadata(self) -> dict[str, Any]:
        """As OME-Zarr has it."""
        return {
            "colors": [{"label-value": number, "rgba": list(colour)} for number, colour in enumerate(self.colours, start=1)],
            "properties": [{"label-value": number, **known} for number, known in enumerate(self.properties, start=1)],
            "source": {"image": "../../"},
        }


def create_ome(
    path: Path,
    geometry: Geometry,
    levels: Sequence[Sequence[int]],
    labels: Sequence[LabelImage],
    maps: Sequence[str] = (),
) -> zarr.Group:
    """
    Lay out the finished volume: OME-Zarr 0.5 with a pyramid, and its label images.

    Parameters
    ----------
    levels
        Spatial shape of each level of the pyramid, the full one first.
    maps
        Names of what follows after the statistics of all channels.

    References
    ----------
    https://ngff.openmicroscopy.org/0.5
    """
    edge, file = stores.CHUNK[len(geometry.space)], stores.SHARD[len(geometry.space)]
    names = [f"{channel} {statistic}" for channel in geometry.channels for statistic in STATISTICS]
    names += maps
    name = path.name.removesuffix(".ome.zarr")
    image = {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(geometry, name, levels, channels=True)],
            "omero": {"channels": [_display(label) for label in names]},
        }
    }
    group = stores.create_group(path, image)
    for level, shape in enumerate(levels):
        stores.create_array(
            group,
            str(level),
            (len(names), *shape),
            dtype="float32",
            chunks=Cut((1, *[edge] * len(shape)), (len(names), *[file] * len(shape))),
            dims=("c", *geometry.space),
        )
    attributes = {"ome": {"version": "0.5", "labels": [image.name for image in labels]}}
    below = group.create_group("labels", attributes=attributes)
    for label in labels:
        multiscale = _multiscale(geometry, label.name, levels, channels=False)
        metadata = {"version": "0.5", "multiscales": [multiscale], "image-label": label.metadata}
        target = below.create_group(label.name, attributes={"ome": metadata})
        for level, shape in enumerate(levels):
            cut = Cut([edge] * len(shape), [file] * len(shape))
            stores.create_array(target, str(level), shape, dtype="uint8", chunks=cut, dims=geometry.space)
    return group


def create_false_colours(
    group: zarr.Group, geometry: Geometry, levels: Sequence[Sequence[int]], facts: Mapping[str, Any]
) -> zarr.Group:
    """
    Lay out an image of red, green and blue inside a finished volume, which viewers open as an image of its own.

    Parameters
    ----------
    facts
        What the colours mean, kept as attributes beside those of OME.
    """
    edge, file = stores.CHUNK[len(geometry.space)], stores.SHARD[len(geometry.space)]
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    shown = [
        {"label": f"component {number}", "color": colour, "active": True, "window": window}
        for number, colour in enumerate(("FF0000", "00FF00", "0000FF"), start=1)
    ]
    multiscale = _multiscale(geometry, EMBEDDING, levels, channels=True)
    metadata = {"version": "0.5", "multiscales": [multiscale], "omero": {"channels": shown, "rdefs": {"model": "color"}}}
    target = group.create_group(EMBEDDING, attributes={"ome": metadata, **facts})
    for level, shape in enumerate(levels):
        cut = Cut((1, *[edge] * len(shape)), (len(PRIMARIES), *[file] * len(shape)))
        stores.create_array(target, str(level), (len(PRIMARIES), *shape), dtype="uint8", chunks=cut, dims=("c", *geometry.space))
    return target


def set_windows(group: zarr.Group, coarsest: int) -> None:
    """
    Let viewers show a finished volume from its least to its largest value.

    The interval and the median of a channel share one window, so that they look alike where they are alike.

    Parameters
    ----------
    coarsest
        Number of the level that is small enough to be read whole.
    """
    values = np.asarray(stores.get_array(group, str(coarsest)))
    metadata: Any = group.attrs.asdict()["ome"]
    channels = metadata["omero"]["channels"]
    ends = [index for index, channel in enumerate(channels) if channel["label"].endswith(f" {STATISTICS[-1]}")]
    # the width, the last one, is on a scale of its own, and so is the members' spread after all others
    together = [range(end - len(STATISTICS) + 1, end) for end in ends]
    for indices in (*together, *([index] for index in (*ends, *range(ends[-1] + 1, len(channels))))):
        found = values[list(indices)]
        found = found[np.isfinite(found)]
        low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
        high = high if high > low else low + 1  # a viewer divides by the difference
        for index in indices:
            channels[index]["window"] = {"start": low, "end": high, "min": low, "max": high}
    group.attrs["ome"] = metadata


def _multiscale(geometry: Geometry, name: str, levels: Sequence[Sequence[int]], *, channels: bool) -> dict[str, Any]:
    """One entry of OME's `multiscales`: axes and the scale of every level."""
    unit = {} if geometry.unit in ("pixel", "voxel") else {"unit": geometry.unit}
    axes = [{"name": axis, "type": "space", **unit} for axis in geometry.space]
    leading = [1.0] if channels else []
    datasets = []
    factors = [1] * len(levels[0])
    for index, shape in enumerate(levels):
        # level by level: what rounding down has lost adds up, so full / shape may be 33 where voxels are 32 times as large
        finer = levels[max(index - 1, 0)]
        factors = [factor * round(fine / size) for factor, fine, size in zip(factors, finer, shape, strict=True)]
        scale = [step * factor for step, factor in zip(geometry.spacing, factors, strict=True)]
        # a coarse voxel's centre lies between those of the voxels that it averages
        places = zip(geometry.origin, geometry.spacing, factors, strict=True)
        shift = [start + step * (factor - 1) / 2 for start, step, factor in places]
        datasets.append(
            {
                "path": str(index),
                "coordinateTransformations": [
                    {"type": "scale", "scale": leading + scale},
                    {"type": "translation", "translation": [0.0] * len(leading) + shift},
                ],
            }
        )
    return {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *axes] if channels else axes,
        "datasets": datasets,
    }


def _display(label: str) -> dict[str, Any]:
    """How a viewer shows a channel at first: medians only, from 0 to 1 until `set_windows` knows better."""
    return {
        "label": label,
        "color": "FFFFFF",
        "active": label.endswith(" median"),
        "window": {"start": 0, "end": 1, "min": 0, "max": 1},
    }
