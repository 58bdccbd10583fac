"""The command `btn verify`: whether everything that a run has left on the disk still is what was written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from behindthenoise.errors import StoreError
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import file_digest, read_json
from behindthenoise.run.shards import Shards, name_of

# What reading damaged data may raise, beside saying that there is none.
UNREADABLE = (ValueError, OSError, RuntimeError)


@dataclass(frozen=True)
class Written:
    """
    Something that a manifest has the digest of.

    Attributes
    ----------
    path
        A file, or the store of an array.
    array
        Name of the array; empty for a file.
    digest
        What was written.
    """

    path: Path
    array: str
    digest: str

    def damage(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if not self.array:
            whole = self.path.exists() and file_digest(self.path) == self.digest
            return None if whole else f"{self.path} {'is not what was written' if self.path.exists() else 'is missing'}"
        try:
            array = stores.get_array(stores.open_group(self.path), self.array)
            if stores.digest(array) == self.digest:
                return None
        except StoreError:
            return f"{self.path}/{self.array} is missing"
        except UNREADABLE:
            pass
        return "; ".join(damaged_files(array)) or f"{self.path}/{self.array} is not what was written"


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


def written(results: Path) -> Iterator[Written]:
    """Everything in the results of one data set that a manifest has the digest of, but for raw results of volumes."""
    for manifest, store in [
        (results / "pairs.json", results / "pairs.zarr"),
        *((path, path.with_name("input.zarr")) for path in sorted(results.glob("volumes/*/input.json"))),
        *((path, results / "volumes" / f"{path.parent.name}.ome.zarr") for path in sorted(results.glob("volumes/*/finish.json"))),
    ]:
        yield from (Written(store, name, digest) for name, digest in content_of(manifest).get("digests", {}).items())
    for folder in sorted(results.glob("members/*")):
        trained, predicted = content_of(folder / "train.json"), content_of(folder / "predict.json")
        files = {"weights.safetensors": trained.get("weights"), "latents.npz": predicted.get("latents")}
        yield from (Written(folder / name, "", digest) for name, digest in files.items() if digest)
        arrays = {"quantiles": predicted.get("quantiles"), "latents": predicted.get("heldout_latents")}
        yield from (Written(folder / "heldout.zarr", name, digest) for name, digest in arrays.items() if digest)
    for source, name in (("average.json", "quantiles"), ("average.json", "spread"), ("label.json", "tokens")):
        if digest := content_of(results / "ensemble" / source).get(name):
            yield Written(results / "ensemble" / ("tokens.zarr" if name == "tokens" else "heldout.zarr"), name, digest)
    tables = content_of(results / "evaluation" / "evaluate.json")
    yield from (Written(results / "evaluation" / f"{name}.csv", "", digest) for name, digest in tables.items() if name != "stage")


def content_of(manifest: Path) -> dict[str, Any]:
    """A manifest; empty where there is none, as that step has not run yet."""
    return read_json(manifest) if manifest.exists() else {}


def damaged_shards(volume: Path) -> Iterator[str]:
    """Of the raw results of one volume, the files that are not what a job has written."""
    shape = volumes.open_input(volume / "input.zarr").shape
    shards = Shards.open(volume / "quantiles.zarr", shape)
    places = {name_of(shard): shard for shard in shards.every}
    for manifest in sorted(volume.glob("jobs/*.json")):
        content = read_json(manifest)
        if content["instance"] != shards.layout.instance:
            continue
        for place, digests in content["shards"].items():
            for name, digest, found in zip(volumes.RAW, digests, shards.stored(places[place]), strict=True):
                if found != digest:
                    array = stores.get_array(shards.group, name)
                    path = stores.file_of(array, stores.whole(array, places[place].core))
                    yield f"{path} is {'damaged' if path.exists() else 'missing'}: delete {manifest} to have it computed again"


def verify(results: Path) -> tuple[int, list[str]]:
    """
    Number of things that were checked, and in words what is wrong with them.

    Raises
    ------
    StoreError
        If the folder has no results.
    """
    if not (results / "pairs.json").exists():
        raise StoreError(f"{results} has no results: no pairs.json; name a folder like results/blobs")
    everything = list(written(results))
    damages = [damage for one in everything if (damage := one.damage())]
    filled = [path.parent for path in sorted(results.glob("volumes/*/jobs")) if (path.parent / "quantiles.zarr").exists()]
    for volume in filled:
        damages += damaged_shards(volume)
    return len(everything) + len(filled), damages
