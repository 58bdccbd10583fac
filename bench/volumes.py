"""
Speed and memory of whole volumes: `btn infer` against its own networks and against DLSIA with qlty, and the stores it writes.

Volumes are generated; weights are random, which costs no less than trained ones; every step is the command line's verb in a process
of its own. Ideal are the bare networks on one tile as `plan` cuts it, with its halo, per voxel of all that: reading, the halo,
averages, embedding and writing count as losses. The rival is DLSIA's network on the wires of ours, cut and stitched by qlty with
the same windows. It is timed on a crop and scaled by voxels, where the whole would take too long; the output says so. Rivals take
turns, figures are medians of the turns, and CPU seconds are those of all threads: `--threads` is what the networks get, and what
all engines of `writing` get.

    python bench/volumes.py throughput          4096^2 and 320^3 voxels, 5 members: an hour or more
    python bench/volumes.py throughput --shape 512 512 --members 2 --turns 3
    python bench/volumes.py memory              peak of `infer` on a volume and on one 8 times as large; 30 GB of disk
    python bench/volumes.py memory --large      1024^3 voxels within 8 GB, all verbs: hours, 50 GB of disk
    python bench/volumes.py writing             the final store's image by ours, zarr-python, zarrs and tensorstore

`--large` goes on where it was stopped, and counts a step from its last start; the logs that it names tell how far it is. DLSIA is
looked for in `.venv-dlsia`, which bench/dlsia.py says how to make. For all engines of `writing`:

    .venv/bin/pip install --no-deps --target .venv-engines zarrs
    PYTHONPATH=.venv-engines .venv/bin/python bench/volumes.py writing
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from math import nan, prod
from pathlib import Path
from typing import Any

# Threads that wait sleep: CPU time counts work. Read when torch is imported, here and by what is started from here.
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all rivals compute on the CPU
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import dask
import dask.array as da
import numpy as np
import torch
import yaml
import zarr

from behindthenoise import config as configuration
from behindthenoise.config import Config, SyntheticConfig
from behindthenoise.core import synthetic
from behindthenoise.core.calibration.groups import Groups
from behindthenoise.core.calibration.scores import Score
from behindthenoise.core.calibration.thresholds import Calibration
from behindthenoise.core.embedding import Projection
from behindthenoise.core.network import Network
from behindthenoise.core.tokens import TokenModel
from behindthenoise.io import datasets, finished, stores, volumes, writers
from behindthenoise.io.geometry import Geometry
from behindthenoise.run import models, thresholds, token_models
from behindthenoise.run import networks as on_disk
from behindthenoise.run.architectures import read_architecture
from behindthenoise.stages import specification

Shape = tuple[int, ...]

ROOT = Path(__file__).resolve().parent.parent
NAME = "volume"
AXES = ("z", "y", "x")
PRESETS = {2: "config.yaml", 3: "config/xct.yaml"}
PAIR, IMAGES = {2: 64, 3: 32}, 8  # edge and number of the training pairs, which give the scale's constants and nothing else
BLOCK = {2: 512, 3: 64}  # edge of what the generator of volumes holds in memory
THROUGHPUT: list[Shape] = [(4096, 4096), (320, 320, 320)]
# The small ones have tiles with a halo on all sides, and as many as it takes for `plan` to put as much into a file as it ever does.
MEMORY: list[Shape] = [(4096, 4096), (384, 384, 384)]
WRITING: list[Shape] = [(4096, 4096), (256, 256, 256)]
LARGE: Shape = (1024, 1024, 1024)
RIVAL_TILES = {2: 8, 3: 3}
TINY = {"depth": 2, "width": 2, "dilations": [1, 2], "radius_max": 3, "latent": 2, "head": 3}


@dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    wall_s: float
    cpu_s: float
    peak_gb: float = nan

    def scaled(self, factor: float) -> "Cost":
        return Cost(self.wall_s * factor, self.cpu_s * factor, self.peak_gb)

    def minus(self, other: "Cost") -> "Cost":
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s, self.peak_gb)

    def over(self, other: "Cost") -> str:
        return f"{self.wall_s / other.wall_s:.2f} by wall time, {self.cpu_s / other.cpu_s:.2f} by CPU time"


@dataclass(frozen=True)
class Layout:
    """What `plan` has chosen."""

    core: Shape
    halo: int
    projected_gb: float


@dataclass(frozen=True)
class Case:
    """A volume and an ensemble on disk, and the verbs that are applied to them."""

    folder: Path
    shape: Shape
    config: Config

    @property
    def input(self) -> Path:
        return self.folder / "input.zarr"

    @property
    def quantiles(self) -> Path:
        return self.folder / "quantiles.zarr"

    def members(self, name: str) -> list[Path]:
        """One file of every member."""
        return [self.folder / f"members/{member}/{name}" for member in range(self.config.ensemble.size)]

    def verb(self, verb: str, *, log: str = "", **options: object) -> Cost:
        """Run a verb with its options as the workflow would; what it says is in the log of its name, or of the name given."""
        words = [
            str(word) for name, value in options.items() for word in (f"--{name}", *(value if isinstance(value, list) else [value]))
        ]
        spec = specification(self.config, verb, volume=NAME)
        return timed([sys.executable, "-m", "behindthenoise", verb, *words, "--spec", spec], self.log(log or verb))

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def fetch(self) -> Cost:
        manifest = self.folder / "input.json"
        return self.verb("fetch", name=NAME, pairs=self.folder / "pairs.zarr", store=self.input, manifest=manifest)

    def plan(self) -> Cost:
        """Lay out the store anew: nothing that an earlier `infer` has written counts as done."""
        for leftover in (self.quantiles, self.folder / "jobs"):
            shutil.rmtree(leftover, ignore_errors=True)
        return self.verb("plan", volume=self.input, graphs=self.members("graph.json"), store=self.quantiles)

    def layout(self) -> Layout:
        """What `plan` has said."""
        said = self.log("plan").read_text()
        core, halo, projected = (
            re.search(pattern, said) for pattern in (r"tiles of \(([\d, ]+)\)", r"halo (\d+)", r"at most ([\d.]+) GB")
        )
        if core is None or halo is None or projected is None:
            raise SystemExit(f"plan no longer tells its tiles, halo and memory as this bench knows it: {self.log('plan')}")
        return Layout(tuple(map(int, core[1].split(","))), int(halo[1]), float(projected[1]))

    def infer(self, share: str = "1-of-1") -> Cost:
        return self.verb(
            "infer",
            log=f"infer-{share}",
            share=share,
            pairs=self.folder / "pairs.zarr",
            volume=self.input,
            graphs=self.members("graph.json"),
            weights=self.members("weights.safetensors"),
            projection=self.folder / "projection.npz",
            store=self.quantiles,
            manifest=self.job(share),
        )

    def job(self, share: str) -> Path:
        return self.folder / f"jobs/{share}.json"

    def finish(self, shares: list[str]) -> Cost:
        return self.verb(
            "finish",
            volume=self.input,
            quantiles=self.quantiles,
            jobs=[self.job(share) for share in shares],
            thresholds=self.folder / "thresholds.json",
            tokens=self.folder / "tokens.npz",
            store=self.folder / f"{NAME}.ome.zarr",
            manifest=self.folder / "finish.json",
        )


def main() -> None:
    options = parsed()
    print(f"torch {torch.__version__}, zarr {zarr.__version__}, {options.threads} threads of {os.cpu_count()}", flush=True)
    if options.mode == "throughput":
        for shape in options.shape or THROUGHPUT:
            throughput(shape, options)
    elif options.mode == "writing":
        for shape in options.shape or WRITING:
            writing(shape, options)
    elif options.large:
        large((options.shape or [LARGE])[0], options)
    else:
        for shape in options.shape or MEMORY:
            memory(shape, options)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in ("throughput", "memory", "writing"):
        added = modes.add_parser(mode)
        added.add_argument(
            "--shape", type=int, nargs="+", action="append", help="of a map (two numbers) or a volume; may be repeated"
        )
        added.add_argument("--threads", type=int, default=1)
        added.add_argument("--turns", type=int, default=5 if mode == "writing" else 2, help="of each rival (default: %(default)s)")
        added.add_argument("--folder", type=Path, default=ROOT / "build/volumes", help="for all files (default: build/volumes)")
        if mode != "writing":
            added.add_argument("--members", type=int, default=5 if mode == "throughput" else 1, help="(default: %(default)s)")
            added.add_argument("--memory-gb", type=float, help="limit; without it, that of the preset, and 8 for --large")
            added.add_argument("--tile", type=int, help="edge of a tile; without it, chosen by `plan`")
    against, extent = modes.choices["throughput"], modes.choices["memory"]
    against.add_argument("--rival", type=Path, default=ROOT / ".venv-dlsia/bin/python", help="Python with DLSIA")
    against.add_argument("--rival-tiles", type=int, help="along each axis of its crop (default: 8 in a map, 3 in a volume)")
    against.add_argument("--rival-core", type=int, help="edge of its windows without their halo; without it, as ours")
    extent.add_argument("--large", action="store_true", help="one large volume, one tiny member, all verbs")
    extent.add_argument("--jobs", type=int, default=8, help="of `infer` with --large (default: 8)")
    return parser.parse_args()


def throughput(shape: Sequence[int], options: argparse.Namespace) -> None:
    """Print what `infer` takes beside the bare networks and beside DLSIA with qlty."""
    case = made(emptied(options.folder / f"throughput-{by(shape)}"), shape, options, network=preset(shape)["network"])
    case.fetch()
    costs: dict[str, list[Cost]] = {}
    rival = Rival(case, options.rival, options.rival_tiles or RIVAL_TILES[len(shape)], options.rival_core, options.threads)
    for _ in range(options.turns):
        case.plan()
        layout = case.layout()
        costs.setdefault("infer", []).append(case.infer())
        costs.setdefault("imports of infer", []).append(imports(case))
        costs.setdefault("ideal", []).append(ideal(case, layout, options.threads))
        if rival.python.exists():
            costs.setdefault("DLSIA + qlty", []).append(rival.run(layout))
    found = {name: median(taken) for name, taken in costs.items()}
    print(
        f"\n{by(shape)}, {options.members} members, cores of {by(layout.core)}, halo {layout.halo}; medians of {options.turns}\n"
        f"{'':>20} {'wall s':>9} {'CPU s':>9} {'CPU us/voxel':>13} {'peak GB':>8}"
    )
    for name, cost in found.items():
        print(f"{name:>20} {cost.wall_s:9.2f} {cost.cpu_s:9.2f} {1e6 * cost.cpu_s / prod(shape):13.3f} {cost.peak_gb:8.2f}")
    work = found["infer"].minus(found["imports of infer"])
    print(f"efficiency: ideal / infer = {found['ideal'].over(found['infer'])}; without imports {found['ideal'].over(work)}")
    print(f"peak memory of infer / projection of plan = {found['infer'].peak_gb:.2f} / {layout.projected_gb:.2f} GB")
    if "DLSIA + qlty" in found:
        print(f"DLSIA + qlty / infer = {found['DLSIA + qlty'].over(work)}, both without imports; {rival.remark()}")
    else:
        print(f"no rival: {rival.python} is not there; bench/dlsia.py says how to make it")
    shutil.rmtree(case.folder)


@dataclass(frozen=True)
class Rival:
    """DLSIA with qlty on the volume of a case, in its own environment."""

    case: Case
    python: Path
    tiles: int
    core: int | None
    threads: int

    def run(self, layout: Layout) -> Cost:
        """What the whole volume takes, from what a crop took."""
        store = emptied(self.case.folder / "rival.zarr")
        words = ["--graphs", *self.case.members("graph.json"), "--volume", self.case.input / "noisy", "--store", store]
        core = [min(size, self.core or edge) for size, edge in zip(self.case.shape, layout.core, strict=True)]
        words += ["--core", *core, "--halo", layout.halo, "--tiles", self.tiles, "--threads", self.threads]
        environment = {"NUMBA_NUM_THREADS": str(self.threads), "PYTHONWARNINGS": "ignore"}
        timed([str(self.python), str(ROOT / "bench/volumes_dlsia.py"), *map(str, words)], self.case.log("rival"), environment)
        told = self.told()
        return Cost(told["wall_s"], told["cpu_s"], told["peak_gb"]).scaled(prod(self.case.shape) / prod(told["crop"]))

    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.case.log("rival").read_text().splitlines()[-1]))

    def remark(self) -> str:
        """What was timed, and how far the figures are scaled."""
        crop = self.told()["crop"]
        factor = prod(self.case.shape) / prod(crop)
        return f"DLSIA on a crop of {by(crop)}, scaled by voxels x {factor:.2f}; its peak is that of the crop"


def imports(case: Case) -> Cost:
    """What `infer` takes before it does anything."""
    return timed(
        [sys.executable, "-c", "import behindthenoise.cli, behindthenoise.io.record, behindthenoise.run.infer"], case.log("imports")
    )


def ideal(case: Case, layout: Layout, threads: int) -> Cost:
    """The bare networks, as if they could run over the volume's voxels and no others; the better of two passes over one tile."""
    torch.set_num_threads(threads)
    precision = case.config.inference.precision
    networks = [
        on_disk.read_network(graph, weights, precision)
        for graph, weights in zip(case.members("graph.json"), case.members("weights.safetensors"), strict=True)
    ]
    read = [min(size, edge + 2 * layout.halo) for size, edge in zip(case.shape, layout.core, strict=True)]
    tile = torch.randn(1, 1, *read, generator=torch.Generator().manual_seed(0))
    passes = [measured(partial(apply_all, networks, tile)) for _ in range(2)]
    best = Cost(min(cost.wall_s for cost in passes), min(cost.cpu_s for cost in passes))
    return best.scaled(prod(case.shape) / prod(read))


@torch.no_grad()
def apply_all(networks: list[Network], tile: torch.Tensor) -> None:
    for network in networks:
        network(tile)


def memory(shape: Sequence[int], options: argparse.Namespace) -> None:
    """Print the peak memory of `infer` for a volume and for one with 8 times its voxels."""
    larger = [size * factor for size, factor in zip(shape, {2: (2, 4), 3: (2, 2, 2)}[len(shape)], strict=True)]
    peaks = []
    print(f"\n{options.members} members\n{'volume':>16} {'core':>12} {'wall s':>8} {'peak GB':>8} {'projected GB':>13}")
    for size in (shape, larger):
        case = made(emptied(options.folder / f"memory-{by(size)}"), size, options, network=preset(size)["network"])
        case.fetch()
        case.plan()
        cost, layout = case.infer(), case.layout()
        print(
            f"{by(size):>16} {by(layout.core):>12} {cost.wall_s:8.1f} {cost.peak_gb:8.2f} {layout.projected_gb:13.2f}", flush=True
        )
        peaks.append(cost.peak_gb)
        shutil.rmtree(case.folder)
    print(f"8 times the voxels take {peaks[1] / peaks[0]:.2f} times the memory")


def large(shape: Sequence[int], options: argparse.Namespace) -> None:
    """Print time and peak memory of all verbs on one large volume; each that was done by an earlier start is not done again."""
    options.members, options.memory_gb = 1, options.memory_gb or 8.0
    folder = options.folder / f"large-{by(shape)}"
    case = made(folder, shape, options, network=TINY, tokens={"components": 1, "count": 2})
    token_models.write(folder / "tokens.npz", TokenModel.of_centroids(np.array([[-1.0], [1.0]], np.float32)))
    calibration = Calibration((Score("cqr"),), (Groups(),), (np.zeros((1, 1), np.float32),))
    thresholds.write(folder / "thresholds.json", calibration, [0.0], 0.9)
    shares = [f"{job}-of-{options.jobs}" for job in range(1, options.jobs + 1)]
    steps: dict[str, Callable[[], Cost]] = {"fetch": case.fetch, "plan": case.plan}
    steps |= {f"infer-{share}": partial(case.infer, share) for share in shares}
    steps["finish"] = partial(case.finish, shares)
    print(f"progress is in {folder / 'logs'}\n{'':>16} {'wall s':>9} {'CPU s':>9} {'peak GB':>8}", flush=True)
    costs = []
    for name, step in steps.items():
        costs.append(once(folder / f"costs/{name}.json", step))
        print(f"{name:>16} {costs[-1].wall_s:9.1f} {costs[-1].cpu_s:9.1f} {costs[-1].peak_gb:8.2f}", flush=True)
    wall, cpu, peak = sum(cost.wall_s for cost in costs), sum(cost.cpu_s for cost in costs), max(cost.peak_gb for cost in costs)
    print(f"{'all':>16} {wall:9.1f} {cpu:9.1f} {peak:8.2f}\n{folder} may be deleted")


def once(record: Path, step: Callable[[], Cost]) -> Cost:
    """Cost of a step that is done unless there is a record of it."""
    if not record.exists():
        cost = step()
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(asdict(cost)))
    return Cost(**json.loads(record.read_text()))


def writing(shape: Sequence[int], options: argparse.Namespace) -> None:
    """Print how fast the image of a finished volume is written: our way, and each engine into an equal, empty array."""
    folder = emptied(options.folder / f"writing-{by(shape)}")
    geometry = Geometry(AXES[-len(shape) :], ("channel",), "level", (1.0,) * len(shape))
    finished.create_ome(folder / "empty.ome.zarr", geometry, [tuple(shape)], [])
    values = np.empty((len(volumes.STATISTICS), *shape), np.float32)
    for region, part in generated(shape):
        values[(slice(None), *region)] = part * np.arange(1, len(values) + 1, dtype=np.float32).reshape(-1, *[1] * len(shape))
    engines = OURS | {name: engine for name, engine in RIVALS.items() if find_spec(name)}
    costs: dict[str, list[Cost]] = {name: [] for name in engines}
    for turn in range(options.turns):
        for name, engine in engines.items():
            target = folder / "written.ome.zarr"
            shutil.copytree(folder / "empty.ome.zarr", target)
            costs[name].append(measured(partial(engine, target, values, options.threads)))
            if turn == 0 and not np.array_equal(zarr.open_array(target / "0", mode="r")[...], values):
                raise SystemExit(f"{name} has written other values")
            shutil.rmtree(target)
    megabytes = values.nbytes / 1e6
    print(f"\n{len(values)} bands of {by(shape)}, {megabytes:.0f} MB, best of {options.turns} turns; nothing waits for the disk")
    print(f"{'':>16} {'wall s':>8} {'CPU s':>8} {'MB/s':>8}")
    best = {name: Cost(min(cost.wall_s for cost in taken), min(cost.cpu_s for cost in taken)) for name, taken in costs.items()}
    for name, cost in best.items():
        print(f"{name:>16} {cost.wall_s:8.2f} {cost.cpu_s:8.2f} {megabytes / cost.wall_s:8.0f}")
    fastest = min(engines.keys() - OURS.keys(), key=lambda name: best[name].wall_s)
    for name in OURS:
        print(f"speed of {name} / speed of {fastest} = {best[fastest].over(best[name])}")
    for name in RIVALS.keys() - engines.keys():
        print(f"{name} is not installed; the first lines of this file say how")
    shutil.rmtree(folder)


def write_as_finish(store: Path, values: np.ndarray, threads: int) -> None:
    target = stores.get_array(stores.open_group(store, "r+"), "0")
    with dask.config.set(num_workers=threads):
        datasets.fill([da.from_array(Held(values), chunks=stores.files(target), name=False)], [target])


class Held:
    """An array of which dask makes no copy, as it would of numpy's: all engines read the same memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        return self.values[region]


def write_as_infer(store: Path, values: np.ndarray, threads: int) -> None:
    """With the digest of every file."""
    target = stores.get_array(stores.open_group(store, "r+"), "0")
    with dask.config.set(num_workers=threads):
        for region in stores.blocks(target):
            writers.write_file(target, region, values[region])


def write_zarr(store: Path, values: np.ndarray, threads: int) -> None:
    with zarr.config.set({"threading.max_workers": threads}):
        zarr.open_array(store / "0", mode="r+")[...] = values


def write_zarrs(store: Path, values: np.ndarray, threads: int) -> None:
    import_module("zarrs")  # which registers the pipeline
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        write_zarr(store, values, threads)


def write_tensorstore(store: Path, values: np.ndarray, threads: int) -> None:
    tensorstore: Any = import_module("tensorstore")
    context = {"file_io_concurrency": {"limit": threads}, "data_copy_concurrency": {"limit": threads}, **stores.FILES}
    kvstore = {"driver": "file", "path": str(store / "0")}
    tensorstore.open({"driver": "zarr3", "kvstore": kvstore, "context": context}).result().write(values).result()


OURS = {"ours, finish": write_as_finish, "ours, infer": write_as_infer}
RIVALS = {"zarr": write_zarr, "zarrs": write_zarrs, "tensorstore": write_tensorstore}


def preset(shape: Sequence[int]) -> dict[str, Any]:
    """The settings that come with the project for this number of axes."""
    return dict(yaml.safe_load((ROOT / PRESETS[len(shape)]).read_text()))


def made(folder: Path, shape: Sequence[int], options: argparse.Namespace, **sections: Any) -> Case:
    """A case with all that `fetch` and `infer` read: a volume, pairs for the scale, graphs, random weights, a projection."""
    axes = AXES[-len(shape) :]
    inference = {"threads": options.threads, "memory_gb": options.memory_gb or float(preset(shape)["inference"]["memory_gb"])}
    content = {
        "dataset": "bench",
        "pairs": {name: {"path": str(folder / f"{name}.npy"), "axes": ("image", *axes)} for name in ("noisy", "clean")},
        "volumes": {NAME: {"noisy": {"path": str(folder / "source.zarr"), "axes": axes}}},
        "split": {"by": "image"},
        "ensemble": {"size": options.members},
        "inference": inference if options.tile is None else {**inference, "tile": options.tile},
        **sections,
    }
    case = Case(folder, tuple(shape), configuration.parse(content, check_files=False))
    if not (folder / "projection.npz").exists():  # it is written last
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        write_source(folder / "source.zarr", shape)
        write_ensemble(case, write_pairs(folder, len(shape)))
    return case


def write_source(path: Path, shape: Sequence[int]) -> None:
    """A volume of any size, in the memory of a block."""
    chunks = tuple(min(size, BLOCK[len(shape)]) for size in shape)
    target = zarr.create_array(path, shape=tuple(shape), chunks=chunks, dtype="float32", overwrite=True)
    for region, part in generated(shape):
        target[region] = part


def generated(shape: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Regions of a volume, and what stands there: one generated block over and over, each time with noise of its own."""
    ndim = len(shape)
    edge = BLOCK[ndim]
    clean = scenes(ndim, 1)[0].clean[0]
    block = np.tile(clean, [edge // size for size in clean.shape])
    for corner in product(*(range(0, size, edge) for size in shape)):
        region = tuple(slice(start, min(start + edge, size)) for start, size in zip(corner, shape, strict=True))
        part = block[tuple(slice(within.stop - within.start) for within in region)]
        yield region, part + np.float32(0.2) * np.random.default_rng(corner).standard_normal(part.shape, np.float32)


def scenes(ndim: int, count: int) -> list[synthetic.Scene]:
    shape = (PAIR[ndim],) * ndim
    return [synthetic.scene(SyntheticConfig(shape=shape), shape, index) for index in range(count)]


def write_pairs(folder: Path, ndim: int) -> np.ndarray:
    """Write pairs as somebody would who has measured them; returns the noisy images."""
    found = scenes(ndim, IMAGES)
    noisy = np.stack([scene.noisy[0, 0] for scene in found])
    np.save(folder / "noisy.npy", noisy)
    np.save(folder / "clean.npy", np.stack([scene.clean[0] for scene in found]))
    return noisy


def write_ensemble(case: Case, noisy: np.ndarray) -> None:
    """Ingest the pairs, draw the graphs, and write what training and embedding would have written."""
    case.verb("ingest", store=case.folder / "pairs.zarr", manifest=case.folder / "pairs.json")
    sample = torch.from_numpy((noisy - noisy.mean()) / noisy.std())[:, None]
    latents = []
    for member, (graph, weights) in enumerate(zip(case.members("graph.json"), case.members("weights.safetensors"), strict=True)):
        case.verb("wire", pairs=case.folder / "pairs.json", graph=graph, member=member)
        network = Network(read_architecture(graph))
        network.initialise(sample, torch.Generator().manual_seed(member))
        on_disk.write_weights(weights, network.folded())
        latents.append(network.architecture.latent)
    components = min(case.config.tokens.components, sum(latents))
    random = np.random.default_rng(0)
    matrices = tuple(random.standard_normal((components, latent), np.float32) for latent in latents)
    projection = Projection(matrices, np.zeros(components, np.float32))
    models.write_projection(case.folder / "projection.npz", projection, np.full(components, 1 / components))


def timed(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run a process that writes into a log; its wall time, CPU time and, if it tells it, peak memory."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    with log.open("w") as file:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**variables, **(environment or {})})
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:4])} has failed, see {log}:\n{said[-2000:]}")
    peak = re.search(r"peak memory ([\d.]+) GB", said)
    return Cost(wall, usage.ru_utime + usage.ru_stime, float(peak[1]) if peak else nan)


def measured(work: Callable[[], None]) -> Cost:
    """Wall time and CPU time of work in this process."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return Cost(time.monotonic() - wall, time.process_time() - cpu)


def median(costs: list[Cost]) -> Cost:
    columns = zip(*((cost.wall_s, cost.cpu_s, cost.peak_gb) for cost in costs), strict=True)
    return Cost(*(statistics.median(column) for column in columns))


def emptied(path: Path) -> Path:
    """A path where nothing is yet; its folder is there."""
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    main()
