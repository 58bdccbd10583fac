"""
Verb `publish`: a finished volume → a copy of it in another folder or at a URL.

A group without arrays in the copy, the index, names the files that have arrived whole. An interrupted copy goes on from there, and
nothing is overwritten that has no such index. The root's metadata come last, so that half a copy is not taken for a volume.
"""

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from behindthenoise import remote
from behindthenoise.config import Target
from behindthenoise.errors import RemoteError, StoreError
from behindthenoise.io import stores
from behindthenoise.io.record import Countdown, file_digest, log, write_json
from behindthenoise.remote import Place
from behindthenoise.stages import Spec

WORKERS = 8  # files on their way at once: waiting for answers costs more than computing
ROOT = "zarr.json"
INDEX = f"{remote.MARK}/zarr.json"
SAVE_EVERY_S = 10.0


class Content(NamedTuple):
    """What is in a file."""

    bytes: int
    sha256: str


@dataclass
class Index:
    """Files of a copy that have arrived whole, and what it is a copy of; kept in the copy itself."""

    place: Place
    owner: dict[str, str]
    files: dict[str, Content] = field(default_factory=dict)
    saved_s: float = 0.0

    def add(self, name: str, content: Content) -> None:
        """Note that a file has arrived."""
        self.files[name] = content
        if time.monotonic() - self.saved_s > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write it into the copy, as attributes of a Zarr group, which no reader of Zarr stumbles over."""
        attributes = {**self.owner, "files": self.files}
        metadata = {"zarr_format": 3, "node_type": "group", "attributes": {remote.MARK: attributes}}
        self.place.write(INDEX, json.dumps(metadata, sort_keys=True).encode())
        self.saved_s = time.monotonic()


def run(spec: Spec, *, store: Path, manifest: Path) -> None:
    """Bring the copy into line with the volume and write the manifest."""
    target = spec.get("publish.{volume}", Target)
    owner = {"dataset": spec.get("dataset", str), "volume": store.name.removesuffix(".ome.zarr")}
    expect_apart(target.path, store)
    place = remote.place(target.path, target.options)
    remote.expect_ours(place)
    with ThreadPoolExecutor(WORKERS) as workers:
        wanted = contents(store, workers)
        update(store, wanted, Index(place, owner), workers)
    expect_whole(place, wanted)
    files = {name: content._asdict() for name, content in wanted.items()}
    write_json(manifest, {"stage": "publish", **owner, **target.model_dump(mode="json"), "files": files})


def expect_apart(path: str, store: Path) -> None:
    """
    Nothing, if a copy would not lie in the store, nor the store in the copy.

    Raises
    ------
    StoreError
        If it would.
    """
    here, there = store.resolve(), Path(path).resolve()
    if not remote.is_url(path) and (here == there or here in there.parents or there in here.parents):
        raise StoreError(f"publish copies {store} to {path}, which is in the same place; choose another folder")


def contents(store: Path, workers: ThreadPoolExecutor) -> dict[str, Content]:
    """
    Size and digest of every file of a store, by its path in there.

    Raises
    ------
    StoreError
        If it has no metadata.
    """
    paths = sorted(path for path in store.rglob("*") if path.is_file() and path.suffix not in stores.UNFINISHED)
    if store / ROOT not in paths:
        raise StoreError(f"store {store} has no {ROOT}; run the workflow, which finishes it")
    digests = workers.map(file_digest, paths)
    return {
        path.relative_to(store).as_posix(): Content(path.stat().st_size, digest)
        for path, digest in zip(paths, digests, strict=True)
    }


def update(store: Path, wanted: dict[str, Content], index: Index, workers: ThreadPoolExecutor) -> None:
    """Send what is not there, and remove what does not belong there."""
    place, names = index.place, index.place.names()
    arrived = read_files(place, names, index.owner)
    kept = {name: content for name, content in wanted.items() if arrived.get(name) == content and names.get(name) == content.bytes}
    missing, surplus = sorted(wanted.keys() - kept.keys()), sorted(names.keys() - wanted.keys() - {INDEX})
    log(f"publish: {place.url}: {len(kept)} of {len(wanted)} files are there, {len(surplus)} do not belong there")
    if not missing and not surplus:
        return
    # until all is in place the copy is no volume, and what is about to be replaced counts as lost
    index.files = {name: content for name, content in kept.items() if name != ROOT}
    index.save()
    list(workers.map(place.remove, [*surplus, *({ROOT} & names.keys())]))
    if surplus and not remote.is_url(place.url):
        remove_empty_folders(Path(place.url))
    send(store, {name: wanted[name] for name in missing if name != ROOT}, index, workers)
    index.save()
    send(store, {ROOT: wanted[ROOT]}, index, workers)
    index.save()


def read_files(place: Place, names: Iterable[str], owner: dict[str, str]) -> dict[str, Content]:
    """
    Files that the index of a copy names; none where it was cut off while it was written, or there is none.

    Raises
    ------
    RemoteError
        If it is the copy of another volume.
    """
    if INDEX not in names:
        return {}
    try:
        found = json.loads(place.read(INDEX))["attributes"][remote.MARK]
        files = {name: Content(*content) for name, content in found.pop("files").items()}
    except (ValueError, KeyError, TypeError):
        return {}
    if found != owner:
        raise RemoteError(
            f"{place.url} holds volume {found.get('volume')} of dataset {found.get('dataset')}, and not {owner['volume']} of "
            f"{owner['dataset']}; choose another place, or remove it yourself"
        )
    return files


def remove_empty_folders(root: Path) -> None:
    """Take away folders without files, which a reader would take for broken arrays; at a URL there are no such folders."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def send(store: Path, files: dict[str, Content], index: Index, workers: ThreadPoolExecutor) -> None:
    """Send files of a store, some at a time."""
    progress = Countdown(sum(content.bytes for content in files.values()), "bytes")
    jobs = {workers.submit(index.place.send, name, store / name): name for name in files}
    count = 0
    try:
        for job in as_completed(jobs):
            job.result()
            index.add(jobs[job], files[jobs[job]])
            count += files[jobs[job]].bytes
            progress.done(count)
    finally:
        for job in jobs:
            job.cancel()


def expect_whole(place: Place, wanted: dict[str, Content]) -> None:
    """
    Nothing, if all files of a copy are there, of the right size, and no others.

    Raises
    ------
    RemoteError
        If not.
    """
    if wrong := differences(place, {name: content.bytes for name, content in wanted.items()}):
        raise RemoteError(
            f"{place.url} is not whole: {len(wrong)} files, e.g. {wrong[0]}; is something else writing there? try again"
        )


def differences(place: Place, sizes: dict[str, int]) -> list[str]:
    """Files of a copy that are lacking, of another size, or should not be there."""
    found = {name: size for name, size in place.names().items() if name != INDEX}
    return sorted(name for name in found.keys() | sizes.keys() if found.get(name) != sizes.get(name))
