"""Verb `infer`: the same values whatever the tiles, shards and jobs, and a job that was killed computes only what it lost."""

import errno
import itertools
import re
import shutil
import threading
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core import inference
from behindthenoise.core.architecture import Architecture
from behindthenoise.core.embedding import Projection
from behindthenoise.core.network import Network
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import Split
from behindthenoise.core.tiling import tiles
from behindthenoise.core.unet import UNet
from behindthenoise.io import datasets, stores, volumes
from behindthenoise.io.geometry import Axes
from behindthenoise.io.record import Countdown, read_json
from behindthenoise.io.volumes import RAW
from behindthenoise.run import infer, ingest, models, networks, shards
from behindthenoise.run.architectures import write_architecture
from behindthenoise.run.pairs import Pairs
from behindthenoise.run.shards import Shards, name_of
from behindthenoise.stages import Spec

CHANNELS, COMPONENTS, TILE = 2, 2, 16
SHAPES = {2: (40, 41), 3: (35, 17, 20)}
SCALE = Scale((1.0, -5.0), (2.0, 0.5), (100.0, 0.0), (3.0, 20.0), (1.0, 1.0), (0.0, 0.0))
# a failure is not made smaller: each try runs networks several times, which would take minutes
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
few = settings(
    deadline=None, max_examples=10, phases=PHASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def axes_of(ndim):
    return Axes(("z", "y", "x")[-ndim:], ("Fe", "Cu"), "counts")


@dataclass(frozen=True)
class Models:
    """Two networks and a projection, in memory and on disk."""

    folder: Path
    members: list[Network]
    projection: Projection
    weights: list[Path]

    @classmethod
    def write(cls, folder, ndim):
        config = NetworkConfig(depth=4, width=2, radius_max=4, latent=3, head=4)
        sparse = architectures.draw(config, architectures.generator(0, 0), ndim=ndim, channels=CHANNELS)
        members = [random_network(drawn, 1) for drawn in (sparse, Architecture(UNet(2, 1, 2), ndim, CHANNELS, CHANNELS, 3, 4))]
        matrices = np.random.default_rng(0).normal(size=(2, COMPONENTS, 3)).astype(np.float32)
        projection = Projection(tuple(matrices), np.array([1, -2], np.float32))
        for index, network in enumerate(members):
            write_architecture(folder / f"{index}" / "graph.json", network.architecture)
        models.write_projection(folder / "projection.npz", projection, np.array([0.7, 0.2]))
        nothing = np.zeros((1, *[2] * ndim))
        split = Split(nothing.astype(np.uint8), nothing.astype(np.int32))
        images = nothing[:, None].repeat(CHANNELS, 1).astype(np.float32)
        ingest.write_pairs(folder / "pairs.zarr", Pairs(images[:, None], images, nothing == 0, split, SCALE, axes_of(ndim), 4), {})
        return cls(folder, [], projection, []).with_members(members, "weights")

    def with_members(self, members, name):
        """The same files but for the weights."""
        weights = [self.folder / f"{index}" / f"{name}.safetensors" for index in range(2)]
        for path, network in zip(weights, members, strict=True):
            networks.write_weights(path, network)
        return replace(self, members=members, weights=weights)

    def infer(self, volume, share="1-of-1", tile=TILE):
        settings_of = {"tile": tile, "memory_gb": 8.0, "threads": 1, "precision": "float32"}
        infer.run(
            Spec("", {f"inference.{key}": value for key, value in settings_of.items()}),
            pairs=self.folder / "pairs.zarr",
            volume=volume.folder / "input.zarr",
            graphs=[self.folder / f"{index}" / "graph.json" for index in range(2)],
            weights=self.weights,
            projection=self.folder / "projection.npz",
            store=volume.store,
            manifest=volume.manifest(share),
            share=share,
        )

    def whole(self, noisy, mask):
        """What the networks say about the whole volume at once, in plain numpy."""

        def broadcast(constants):
            return np.reshape(constants, (-1, *[1] * mask.ndim)).astype(np.float32)

        standardised = np.where(mask, (noisy - broadcast(SCALE.noisy_shift)) / broadcast(SCALE.noisy_scale), 0)
        with torch.no_grad():
            found = [network(torch.from_numpy(standardised)[None]) for network in self.members]
        raw, latents = (np.stack([part[0].numpy() for part in parts]) for parts in zip(*found, strict=True))
        embedding = np.einsum("mkl,ml...->k...", np.stack(self.projection.matrices), latents)
        values = (
            raw.mean(0) * broadcast(SCALE.clean_scale) + broadcast(SCALE.clean_shift),
            raw[:, 1].std(0) * broadcast(SCALE.clean_scale),
            embedding + np.reshape(self.projection.offset, (-1, *[1] * mask.ndim)),
        )
        return [np.where(mask, part, np.nan) for part in values]


def random_network(architecture, seed):
    random = torch.Generator().manual_seed(seed)
    network = Network(architecture).eval()
    network.initialise(torch.randn(2, CHANNELS, *[16] * architecture.ndim, generator=random), random)
    return network


@dataclass(frozen=True)
class Folder:
    """A volume on disk: its input and the store of its quantiles."""

    folder: Path

    @classmethod
    def write(cls, folder, noisy, mask, shard, tile=TILE):
        axes = axes_of(mask.ndim)
        named = xr.DataArray(noisy, dims=("channel", *axes.space)), xr.DataArray(mask, dims=axes.space)
        datasets.write_input(folder / "input.zarr", *named, axes, {})
        volume = cls(folder)
        volumes.create_quantiles(volume.store, volume.input, [tile] * mask.ndim, shard, COMPONENTS)
        return volume

    @property
    def store(self):
        return self.folder / "quantiles.zarr"

    @property
    def input(self):
        return volumes.open_input(self.folder / "input.zarr")

    @property
    def shards(self):
        return Shards.open(self.store, self.input.shape).every

    @property
    def finished(self):
        """First voxels of the shards of which a record says that they are written."""
        return {path.name.partition(".")[0] for path in (self.folder / "shards").glob("*.json")}

    @property
    def values(self):
        group = zarr.open_group(self.store, mode="r")
        return [group[name][...] for name in RAW]

    @property
    def files(self):
        """Every file that holds values, and when it was written."""
        return {path: path.stat().st_mtime_ns for name in RAW for path in (self.store / name / "c").rglob("*") if path.is_file()}

    def manifest(self, share="1-of-1"):
        return self.folder / "jobs" / f"{share}.json"

    def calls(self, owned=None, tile=TILE):
        """How often an ensemble runs for these shards: once for each tile that is not all masked."""
        source = self.input
        mask = np.asarray(source.mask[...])
        return sum(
            mask[part.core].any() for shard in owned or [] for part in tiles(source.shape, [tile] * mask.ndim, 0, shard.core)
        )

    def copy(self, name):
        return Folder(shutil.copytree(self.folder, self.folder.parent / name))


@contextmanager
def watched():
    """How often an ensemble ran, and how often each shard was written."""
    seen, ensemble, write = Counter(), inference.run_ensemble, Shards.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "run_ensemble", lambda *given: seen.update(["calls"]) or ensemble(*given))
        patch.setattr(Shards, "write", lambda *given: seen.update([name_of(given[1])]) or write(*given))
        yield seen


class KilledError(Exception):
    """Raised in the place of a signal."""


@contextmanager
def failing(owner, name, after, problem):
    """A function that raises once it has been called so many times."""
    original, count = getattr(owner, name), itertools.count()

    def fragile(*given, **named):
        if next(count) >= after:
            raise problem
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fragile)
        yield


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    return {ndim: Models.write(tmp_path_factory.mktemp(f"models-{ndim}d"), ndim) for ndim in (2, 3)}


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def networks_and_volume(request, ensembles, tmp_path):
    """Six shards or more, in the last of them a tile that is masked."""
    shape = SHAPES[request.param]
    random = np.random.default_rng(0)
    mask = random.random(shape) < 0.9
    mask[tuple(slice(TILE * ((size - 1) // TILE), None) for size in shape)] = False
    noisy = random.normal(size=(CHANNELS, *shape)).astype(np.float32)
    return ensembles[request.param], Folder.write(tmp_path / "volume", noisy, mask, (*[TILE] * (len(shape) - 1), 2 * TILE))


@st.composite
def cases(draw):
    """Noisy values and mask of a small volume, tile, and two ways to cut it into shards and jobs."""
    ndim = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, {2: 70, 3: 34}[ndim])] * ndim))
    random = np.random.default_rng(draw(st.integers(0, 100)))
    mask = random.random(shape) < draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    mask[tuple(slice(None, draw(st.integers(0, size))) for size in shape)] = draw(st.booleans())
    tile = draw(st.sampled_from([16, 32, 80]))
    cuts = draw(st.tuples(*[st.tuples(st.tuples(*[st.integers(1, 3)] * ndim), st.integers(1, 4))] * 2))
    return random.normal(size=(CHANNELS, *shape)).astype(np.float32), mask, tile, cuts


def worst(found, expected):
    """Largest difference, beyond the rounding of what is stored in half precision, in units of what is expected to vary."""
    found, expected, kept = found.astype(np.float32), expected.astype(np.float32), found.dtype
    values = expected[np.isfinite(expected)]
    if not values.size:
        return 0.0
    rounding = np.spacing(np.nan_to_num(np.abs(found)).astype(kept)).astype(np.float32) / 2 if kept == np.float16 else 0.0
    return np.nanmax(np.abs(found - expected) - rounding) / max(values.std(), np.abs(values).mean())


@given(cases())
@few
def test_tiles_shards_and_jobs_change_nothing(ensembles, case):
    noisy, mask, tile, cuts = case
    model, found = ensembles[mask.ndim], []
    for multiples, jobs in cuts:
        with TemporaryDirectory() as folder, watched() as seen:
            volume = Folder.write(Path(folder), noisy, mask, [tile * multiple for multiple in multiples], tile)
            for job in range(1, jobs + 1):
                model.infer(volume, f"{job}-of-{jobs}", tile)
            found.append(volume.values)
            assert seen.pop("calls", 0) == volume.calls(volume.shards, tile), "a masked tile calls no network"
            assert seen == Counter(map(name_of, volume.shards)), "every shard is written once"
            written = np.zeros(mask.shape, int)
            for shard in volume.shards:
                written[shard.core] += 1
            assert (written == 1).all()
            manifests = [read_json(volume.manifest(f"{job}-of-{jobs}"))["shards"] for job in range(1, jobs + 1)]
            assert sorted(itertools.chain(*manifests)) == sorted(map(name_of, volume.shards))
    for first, second, expected in zip(*found, model.whole(noisy, mask), strict=True):
        np.testing.assert_array_equal(np.isnan(first), np.broadcast_to(~mask, first.shape))
        np.testing.assert_array_equal(first, second)
        assert worst(first, expected) <= 1e-5


BROKEN = {
    "network": (inference, "run_ensemble", KilledError("killed")),
    "file": (shards, "write_file", OSError(errno.ENOSPC, "No space left on device")),
    "record": (shards, "write_json", OSError(errno.ENOSPC, "No space left on device")),
}


@given(st.sampled_from([2, 3]), st.sampled_from(sorted(BROKEN)), st.integers(1, 3), st.floats(0, 1, exclude_max=True))
@example(2, "network", 1, 0.999)
@example(2, "record", 1, 0.999)
@example(3, "file", 2, 0.0)
@few
def test_a_job_that_fails_computes_only_what_it_lost(ensembles, ndim, what, jobs, moment):
    random = np.random.default_rng(0)
    mask = random.random(SHAPES[ndim]) < 0.05
    noisy = random.normal(size=(CHANNELS, *mask.shape)).astype(np.float32)
    names = [f"{job}-of-{jobs}" for job in range(1, jobs + 1)]
    with TemporaryDirectory() as folder:
        volume = Folder.write(Path(folder) / "volume", noisy, mask, (*[TILE] * (ndim - 1), 2 * TILE))
        undisturbed = volume.copy("undisturbed")
        for share in names:
            ensembles[ndim].infer(undisturbed, share)
        owned = Shards.open(volume.store, mask.shape).owned(infer.shares.parse(names[0]))
        events = {"network": volume.calls(owned), "file": 3 * len(owned), "record": len(owned)}[what]
        after, (owner, name, problem) = int(moment * events), BROKEN[what]
        with failing(owner, name, after, problem), pytest.raises(type(problem), match=re.escape(str(problem))):
            ensembles[ndim].infer(volume, names[0])
        assert not volume.manifest(names[0]).exists()
        lost = [shard for shard in owned if name_of(shard) not in volume.finished]
        if what == "network":
            assert volume.calls([shard for shard in owned if shard not in lost]) <= after < volume.calls(owned)
        else:
            assert len(owned) - len(lost) == after // {"file": 3, "record": 1}[what]
        for share in names[1:]:
            ensembles[ndim].infer(volume, share)
        with watched() as seen:
            ensembles[ndim].infer(volume, names[0])
        assert seen.pop("calls", 0) == volume.calls(lost)
        assert seen == Counter(map(name_of, lost))
        for found, expected in zip(volume.values, undisturbed.values, strict=True):
            np.testing.assert_array_equal(found, expected)
        for share in names:
            assert volume.manifest(share).read_bytes() == undisturbed.manifest(share).read_bytes()


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("harm", ["lost", "cut", "flipped", "unrecorded"])
def test_a_damaged_shard_is_computed_again_and_no_other(networks_and_volume, name, harm):
    model, volume = networks_and_volume
    model.infer(volume)
    before, values, manifest = volume.files, volume.values, volume.manifest().read_bytes()
    victim = volume.shards[1]
    numbers = [0] * (volume.values[list(RAW).index(name)].ndim - len(victim.core)) + [
        part.start // edge
        for part, edge in zip(victim.core, volumes.read_layout(stores.open_group(volume.store)).shard, strict=True)
    ]
    file = volume.store.joinpath(name, "c", *map(str, numbers))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 8
    if harm == "lost":
        file.unlink()
    elif harm == "unrecorded":
        (record,) = (volume.folder / "shards").glob(f"{name_of(victim)}.*.json")
        record.unlink()
    else:
        file.write_bytes(content if harm == "flipped" else content[: len(content) // 2])
    with watched() as seen:
        model.infer(volume)
    assert seen == {"calls": volume.calls([victim]), name_of(victim): 1}
    changed = {path for path, time in volume.files.items() if before[path] != time}
    assert file in changed and len(changed) == len(RAW)
    for found, expected in zip(volume.values, values, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert volume.manifest().read_bytes() == manifest


def test_a_finished_job_that_runs_again_computes_nothing(networks_and_volume):
    model, volume = networks_and_volume
    model.infer(volume)
    before = volume.files
    with watched() as seen:
        model.infer(volume)
    assert not seen
    assert volume.files == before


def test_other_weights_compute_everything_again(networks_and_volume):
    model, volume = networks_and_volume
    empty = volume.copy("empty")
    model.infer(volume)
    before = volume.values
    others = model.with_members([random_network(network.architecture, 7) for network in model.members], "others")
    with watched() as seen:
        others.infer(volume)
    assert seen == {"calls": volume.calls(volume.shards), **dict.fromkeys(map(name_of, volume.shards), 1)}
    others.infer(empty)
    assert volume.manifest().read_bytes() == empty.manifest().read_bytes()
    for found, expected, earlier in zip(volume.values, empty.values, before, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert worst(found, earlier) > 1e-2


@pytest.mark.parametrize("change", ["tile", "projection", "instance"])
def test_whatever_values_depend_on_computes_everything_again(networks_and_volume, change, tmp_path):
    model, volume = networks_and_volume
    model.infer(volume)
    if change == "projection":
        model = replace(model, folder=shutil.copytree(model.folder, tmp_path / "others"))
        models.write_projection(model.folder / "projection.npz", model.projection, np.array([0.6, 0.3]))
    elif change == "instance":
        zarr.open_group(volume.store, mode="r+").attrs["instance"] = "another"
    tile = 2 * TILE if change == "tile" else TILE
    with watched() as seen:
        model.infer(volume, tile=tile)
    assert seen == {"calls": volume.calls(volume.shards, tile), **dict.fromkeys(map(name_of, volume.shards), 1)}


PROGRESS = r"(\d+)/(\d+) voxels, (\S+) a second, \d+ s so far, about (\d+) s left; of the whole volume (\d+) of (\d+) shards"


def progress_of(model, volume, capsys):
    """What was said after each shard: voxels done, all voxels, rate, seconds left, shards done, all shards."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "Countdown", partial(Countdown, every_s=0.0))
        model.infer(volume)
    return [[float(number) for number in found] for found in re.findall(PROGRESS, capsys.readouterr().err)]


def test_progress_says_how_fast_and_how_long(networks_and_volume, capsys):
    model, volume = networks_and_volume
    voxels = np.cumsum([infer.voxels_of(shard) for shard in volume.shards])
    lines = progress_of(model, volume, capsys)
    assert [line[0] for line in lines] == list(voxels)
    assert all(line[1] == voxels[-1] and line[2] > 0 and line[5] == len(voxels) for line in lines)
    assert lines[-1][3] == 0


def test_the_last_line_of_progress_counts_every_shard(networks_and_volume, capsys):
    model, volume = networks_and_volume
    write, wait = Shards.write, threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shards, "write", lambda *given: wait.wait(0.2) or write(*given))
        assert progress_of(model, volume, capsys)[-1][4] == len(volume.shards)


def test_progress_does_not_count_shards_of_other_networks(networks_and_volume, capsys):
    model, volume = networks_and_volume
    model.infer(volume)
    others = model.with_members([random_network(network.architecture, 7) for network in model.members], "others")
    assert progress_of(others, volume, capsys)[0][4] <= 1


def test_half_written_files_of_a_killed_job_are_removed(networks_and_volume):
    """tensorstore writes `NAME_<random>.__lock` and renames it; after SIGKILL nobody does."""
    model, volume = networks_and_volume
    model.infer(volume)
    victim = next(iter(volume.files))
    stray = victim.with_name(f"{victim.name}_b780691920b5b26d.__lock")
    victim.rename(stray)
    model.infer(volume)
    assert victim.exists()
    assert not stray.exists()


class Held:
    """Something in memory that belongs to one item."""

    alive: "weakref.WeakSet[Held]"

    def __init__(self, item):
        self.item = item


def test_at_most_three_items_are_in_memory_and_their_order_is_kept():
    """The reader and the writer are given all the time they could use to run ahead or to lag behind."""
    alive, most, events, patience = weakref.WeakSet(), [], [], threading.Event()

    def held(what, item):
        events.append((what, item))
        found = Held(item)
        alive.add(found)
        most.append(len({other.item for other in alive}))
        return found

    def compute(given):
        patience.wait(0.03)
        return held("compute", given.item)

    def write(item, found):
        patience.wait(0.05)
        events.append(("write", item))
        assert found.item == item

    assert list(infer.overlapped(range(8), partial(held, "read"), compute, write)) == list(range(8))
    for what in ("read", "compute", "write"):
        assert [item for kind, item in events if kind == what] == list(range(8))
    assert max(most) == 3
    assert len(alive) == 0


def test_reading_and_writing_happen_while_computing():
    """Computing waits for the next item to be read, and writing for the next to be computed: in turns that would never end."""
    begun = {what: [threading.Event() for _ in range(5)] for what in ("read", "compute")}
    met = []

    def compute(item):
        begun["compute"][item].set()
        met.append(item == 4 or begun["read"][item + 1].wait(5))
        return item

    def write(item, found):
        met.append(item == 4 or begun["compute"][item + 1].wait(5))

    def read(item):
        begun["read"][item].set()
        return item

    assert list(infer.overlapped(range(5), read, compute, write)) == list(range(5))
    assert met == [True] * 10


@pytest.mark.parametrize("item", [0, 2, 4])
@pytest.mark.parametrize("what", ["read", "compute", "write"])
def test_what_reader_network_or_writer_raise_is_raised(what, item):
    done = {"read": [], "compute": [], "write": []}

    def step(kind, number):
        if (kind, number) == (what, item):
            raise KilledError(f"{kind} {number}")
        done[kind].append(number)
        return number

    with pytest.raises(KilledError, match=f"{what} {item}"):
        list(infer.overlapped(range(5), partial(step, "read"), partial(step, "compute"), lambda number, _: step("write", number)))
    assert done["write"] == list(range(item)), "what was computed before is written"
    assert len(done["compute"]) <= item + 2, "no more is computed when the disk is full"


def test_nothing_to_do_is_done_at_once():
    assert list(infer.overlapped([], Held, Held, Held)) == []
