"""What TIFF files tell besides their pixels: voxel size, its unit and names of channels, as OME-TIFF and ImageJ write them."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import ParseError

import tifffile

from behindthenoise.io import units

SPACE = {"X": "x", "Y": "y", "Z": "z"}
OME_UNIT = "\N{MICRO SIGN}m"  # where a file names none, by the schema of OME


@dataclass(frozen=True)
class TiffMetadata:
    """
    What a TIFF file tells of one of its images; empty where it is silent.

    Attributes
    ----------
    spacing
        Size of a voxel by axis of space.
    units
        Unit of `spacing` by axis of space.
    """

    channels: tuple[str, ...] = ()
    spacing: Mapping[str | None, float] = field(default_factory=dict)
    units: Mapping[str | None, str] = field(default_factory=dict)


def read(file: str, series: int) -> TiffMetadata:
    """
    What a file tells of one of its series of pages; nothing where its metadata are broken.

    Resolutions of other software are left alone: those per inch are about printing. So are stage positions of OME-TIFF, which may
    be those of a corner or of the middle of the field.

    References
    ----------
    Open Microscopy Environment: OME Data Model, schema 2016-06, `Pixels` and `Channel`.
    """
    with tifffile.TiffFile(file) as tiff, suppress(ParseError, ValueError, TypeError):
        if tiff.ome_metadata:
            return _of_ome(tifffile.xml2dict(tiff.ome_metadata), series)
        if tiff.imagej_metadata:
            return _of_imagej(tiff.imagej_metadata, tiff.pages.first.resolution)
    return TiffMetadata()


def _of_ome(xml: Mapping[str, Any], series: int) -> TiffMetadata:
    images = _listed(xml.get("OME", {}).get("Image"))
    if series >= len(images):
        return TiffMetadata()
    pixels = images[series].get("Pixels") or {}
    names = tuple(str(channel.get("Name", "")) for channel in _listed(pixels.get("Channel")))
    sizes = {axis: float(pixels[key]) for letter, axis in SPACE.items() if (key := f"PhysicalSize{letter}") in pixels}
    symbols = {axis: str(pixels.get(f"PhysicalSize{letter}Unit", OME_UNIT)) for letter, axis in SPACE.items() if axis in sizes}
    return _known(names, sizes, symbols)


def _of_imagej(metadata: Mapping[str, Any], per_unit: tuple[float, float]) -> TiffMetadata:
    """Across and down an ImageJ file has pixels per unit, in depth the unit's number between planes; planes may have labels."""
    labels = tuple(str(label) for label in metadata.get("Labels", ()))
    names = labels if len(labels) == metadata.get("channels", 1) else ()
    symbol = str(metadata.get("unit", ""))
    sizes = {axis: 1 / count for axis, count in zip("xy", per_unit, strict=True) if count > 0}
    sizes |= {"z": float(metadata["spacing"])} if "spacing" in metadata else {}
    return _known(names, sizes, dict.fromkeys(sizes, symbol))


def _known(channels: tuple[str, ...], sizes: Mapping[str, float], symbols: Mapping[str, str]) -> TiffMetadata:
    """Only sizes that are lengths: positive, and in a unit of length."""
    names = {axis: units.named(symbol) for axis, symbol in symbols.items()}
    lengths: dict[str | None, float] = {axis: size for axis, size in sizes.items() if size > 0 and names[axis] in units.METRES}
    return TiffMetadata(channels, lengths, {axis: name for axis, name in names.items() if axis in lengths})


def _listed(found: Any) -> list[Any]:
    """XML with one child of a name gives the child, with several a list of them."""
    return found if isinstance(found, list) else [found] if found else []
