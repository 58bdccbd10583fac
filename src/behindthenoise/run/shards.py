"""Shards of a volume's raw results: who owns them, which are finished, and what was written."""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from behindthenoise.core import tiling
from behindthenoise.core.tiling import Tile
from behindthenoise.errors import StoreError
from behindthenoise.io import stores, volumes
from behindthenoise.io.record import read_json, write_json
from behindthenoise.io.volumes import Layout
from behindthenoise.io.writers import write_file
from behindthenoise.run.shares import Share


def forget(store: Path) -> None:
    """Forget what was written into a store that is laid out anew."""
    shutil.rmtree(_folder(store), ignore_errors=True)


def _folder(store: Path) -> Path:
    return store.parent / "shards"


def name_of(shard: Tile) -> str:
    """Its first voxel, as it stands in manifests and messages."""
    return ",".join(str(part.start) for part in shard.core)


@dataclass(frozen=True, eq=False)
class Shards:
    """
    The shards of one store.

    Of each that is written, a small file beside the store says so, once its values are on the disk: a job that was killed goes on
    where it was. These files are no outputs of Snakemake, which would delete them with the failed job.

    Attributes
    ----------
    every
        All of them, in C order.
    key
        What the values depend on; records of another key do not count.
    """

    group: zarr.Group
    folder: Path
    layout: Layout
    every: list[Tile]
    key: str = ""

    @classmethod
    def open(cls, store: Path, shape: Sequence[int], *, key: str = "") -> "Shards":
        """
        The shards of a store of quantiles.

        Raises
        ------
        StoreError
            If there is no such store.
        """
        group = stores.open_group(store, "r+" if key else "r")
        layout = volumes.read_layout(group)
        return cls(group, _folder(store), layout, tiling.tiles(shape, layout.shard, 0), key)

    def owned(self, share: Share) -> list[Tile]:
        """Those of one job."""
        return [self.every[index] for index in tiling.share(len(self.every), *share)]

    def has(self, shard: Tile) -> bool:
        """Whether it was written with these networks, and still is as it was written."""
        try:
            found = read_json(self._record(shard))
        except StoreError:  # there is none, or the machine stopped while it was written
            return False
        return found == {"digests": self.stored(shard)}

    def stored(self, shard: Tile) -> list[str]:
        """Digests of what the store holds, array by array; empty where it cannot be read."""
        found = []
        for name in volumes.RAW:
            array = stores.get_array(self.group, name)
            try:
                found.append(stores.digest(array, stores.whole(array, shard.core)))
            except (ValueError, OSError, RuntimeError):
                found.append("")
        return found

    def write(self, shard: Tile, results: Sequence[np.ndarray]) -> None:
        """Write the values of one shard, then its record; records of what stood there before are gone."""
        for record in self.folder.glob(f"{name_of(shard)}.*.json"):
            record.unlink(missing_ok=True)
        digests = []
        for name, values in zip(volumes.RAW, results, strict=True):
            array = stores.get_array(self.group, name)
            digests.append(write_file(array, stores.whole(array, shard.core), values))
        write_json(self._record(shard), {"digests": digests})

    def digests(self, shards: Iterable[Tile]) -> dict[str, list[str]]:
        """What was written, by the shard's first voxel."""
        return {name_of(shard): read_json(self._record(shard))["digests"] for shard in shards}

    def count(self) -> int:
        """How many are written with these networks, by all jobs."""
        return len(list(self.folder.glob(f"*.{self._of()}.json")))

    def _record(self, shard: Tile) -> Path:
        return self.folder / f"{name_of(shard)}.{self._of()}.json"

    def _of(self) -> str:
        return hashlib.sha256(f"{self.layout.instance} {self.key}".encode()).hexdigest()[:16]


def expect_complete(shards: Shards, manifests: Sequence[Path]) -> None:
    """
    Nothing, if the jobs together wrote every shard of this very store, and it still holds what they wrote.

    Raises
    ------
    StoreError
        Names a shard that is missing, damaged, or was written into an earlier store.
    """
    written: dict[str, tuple[list[str], Path]] = {}
    for path in manifests:
        manifest = read_json(path)
        if manifest["instance"] == shards.layout.instance:
            written |= {name: (found, path) for name, found in manifest["shards"].items()}
    store = shards.group.store_path
    for shard in shards.every:
        name = name_of(shard)
        if name not in written:
            raise StoreError(f"the shard at {name} of {store} was never written; run the workflow again")
        digests, path = written[name]
        if shards.stored(shard) != digests:
            raise StoreError(
                f"the shard at {name} of {store} is lost or damaged: it is not what was written there; delete {path} and run the "
                "workflow again, which computes what is damaged and nothing else"
            )
