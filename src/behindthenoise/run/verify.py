"""The command `btn verify`: whether everything that a run has left on the disk still is what was written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import zarr

from behindthenoise import remote
from behindthenoise.errors import RemoteError, StoreError
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import RECORD, file_digest, is_in_place, read_json
from behindthenoise.run import publish
from behindthenoise.run.shards import Shards, name_of

# What reading damaged data may raise, beside saying that there is none.
UNREADABLE = (ValueError, OSError, RuntimeError)


class Damage(NamedTuple):
    """What is wrong, in words, and the output of the workflow that has to be made again."""

    words: str
    output: Path


@dataclass(frozen=True)
class Written:
    """
    Something that a record or a manifest has the digest of.

    Attributes
    ----------
    path
        A file, or the store of an array.
    array
        Name of the array; empty for a file.
    digest
        What was written.
    output
        What the workflow makes together with it.
    """

    path: Path
    array: str
    digest: str
    output: Path

    def damages(self) -> Iterator[Damage]:
        """Nothing, if it is what was written."""
        if not self.array:
            if not self.path.exists():
                yield Damage(f"{self.path} is missing", self.output)
            elif file_digest(self.path) != self.digest:
                yield Damage(f"{self.path} is not what was written", self.output)
            return
        try:
            array = stores.get_array(stores.open_group(self.path), self.array)
        except StoreError:
            yield Damage(f"array {self.array!r} of {self.path} is missing, or its metadata are", self.output)
            return
        try:
            if stores.digest(array) == self.digest:
                return
        except UNREADABLE:
            pass
        found = list(damaged_files(array)) or [f"array {self.array!r} of {self.path} is not what was written"]
        yield from (Damage(words, self.output) for words in found)


def damaged_files(array: zarr.Array[Any]) -> Iterator[str]:
    """Files of an array that are missing or cannot be read."""
    for region in stores.blocks(array):
        path = stores.file_of(array, region)
        if not path.exists():
            yield f"{path} is missing"
            continue
        try:
            array[region]
        except UNREADABLE:
            yield f"{path} is damaged"


def files_of(results: Path) -> Iterator[Written]:
    """Files that the records of the jobs have the digests of."""
    for path in sorted(results.rglob(f"*{RECORD}")):
        record = content_of(path)
        digests: dict[str, str] = record.get("files", {}) if is_in_place(path, record) else {}
        output = next((path.parent / name for name in digests), path)
        yield from (Written(path.parent / name, "", digest, output) for name, digest in digests.items())


def arrays_of(results: Path) -> Iterator[Written]:
    """Arrays that manifests have the digests of, but for the raw results of volumes."""
    for manifest, store in (
        (results / "pairs.json", results / "pairs.zarr"),
        *((path, path.with_name("input.zarr")) for path in sorted(results.glob("volumes/*/input.json"))),
        *((path, results / "volumes" / f"{path.parent.name}.ome.zarr") for path in sorted(results.glob("volumes/*/finish.json"))),
        *((path, path.with_name("class_regions.zarr")) for path in sorted(results.glob("volumes/*/describe.json"))),
        *((path, path.with_suffix(".zarr")) for path in sorted(results.glob("volumes/*/regions/*.json"))),
    ):
        for name, digest in content_of(manifest).get("digests", {}).items():
            yield Written(store, name, digest, manifest)
    ensemble = results / "ensemble"
    named = [
        *((path, "heldout.zarr", "quantiles", "quantiles") for path in sorted(results.glob("members/*/predict.json"))),
        *((path, "heldout.zarr", "latents", "heldout_latents") for path in sorted(results.glob("members/*/predict.json"))),
        *((ensemble / "average.json", "heldout.zarr", name, name) for name in ("quantiles", "spread")),
        (ensemble / "label.json", "tokens.zarr", "tokens", "tokens"),
    ]
    for manifest, store_name, array, key in named:
        if digest := content_of(manifest).get(key):
            yield Written(manifest.with_name(store_name), array, digest, manifest)


def content_of(manifest: Path) -> dict[str, Any]:
    """A manifest; empty where there is none that can be read, which the record of its job tells."""
    try:
        return read_json(manifest)
    except StoreError:
        return {}


def damaged_shards(volume: Path) -> Iterator[Damage]:
    """Of the raw results of one volume, the files that are not what a job has written."""
    try:
        shards = Shards.open(volume / "quantiles.zarr", volumes.open_input(volume / "input.zarr").shape)
    except StoreError as problem:
        yield Damage(str(problem), volume / "quantiles.zarr" / "zarr.json")
        return
    places = {name_of(shard): shard for shard in shards.every}
    for manifest in sorted(set(volume.glob("jobs/*.json")) - set(volume.glob(f"jobs/*{RECORD}"))):
        content = content_of(manifest)
        for place, digests in content.get("shards", {}).items() if content.get("instance") == shards.layout.instance else ():
            for name, digest, found in zip(volumes.RAW, digests, shards.stored(places[place]), strict=True):
                if found != digest:
                    array = stores.get_array(shards.group, name)
                    path = stores.file_of(array, stores.whole(array, places[place].core))
                    yield Damage(f"{path} is {'damaged' if path.exists() else 'missing'}", manifest)


def damaged_copies(manifests: Iterable[Path], workplace: Path) -> Iterator[Damage]:
    """
    Of published volumes, files that are lacking, of another size, or too many; reading them back would cost as much as sending.

    Parameters
    ----------
    workplace
        Folder where the workflow has run, from which relative paths start.
    """
    for manifest in manifests:
        content = content_of(manifest)
        if not content:  # the record of its job tells
            continue
        sizes = {name: file["bytes"] for name, file in content["files"].items()}
        path = content["path"] if remote.is_url(content["path"]) else str(workplace / content["path"])
        try:
            for name in publish.differences(remote.place(path, content["options"]), sizes):
                yield Damage(f"{content['path']}: {name} is missing, or not as it was published", manifest)
        except RemoteError as problem:
            yield Damage(f"whether the published {content['volume']} is whole is unknown: {problem}", manifest)


def verify(results: Path) -> tuple[int, list[Damage]]:
    """
    Number of things that were checked, and what is wrong with them.

    Raises
    ------
    StoreError
        If the folder has no results, or those of a version with other digests.
    """
    if not (results / "pairs.zarr").is_dir():
        raise StoreError(f"{results} has no results: no pairs.zarr; name a folder like results/blobs")
    everything = [*files_of(results), *arrays_of(results)]
    if any(one.array and len(one.digest) != stores.DIGEST_LENGTH for one in everything):
        raise StoreError(f"{results} was written by another version of this project, with other digests; run the workflow again")
    damages = [damage for one in everything for damage in one.damages()]
    raw = [path.parent for path in sorted(results.glob("volumes/*/jobs"))]
    for volume in raw:
        damages += damaged_shards(volume)
    copies = sorted(results.glob("volumes/*/publish.json"))
    damages += damaged_copies(copies, results.resolve().parent.parent)
    return len(everything) + len(raw) * len(volumes.RAW) + len(copies), damages


def advice(damages: Iterable[Damage]) -> str:
    """How the workflow makes again what is damaged, and nothing else; files first, as `--configfile` takes all that follow it."""
    outputs = " ".join(dict.fromkeys(str(damage.output) for damage in damages))
    return (
        "Snakemake does not look at what it has made. To make this again, with the options that you always give it:\n"
        f"  rm -f {outputs}\n  snakemake {outputs} ...\n  snakemake ..."
    )
