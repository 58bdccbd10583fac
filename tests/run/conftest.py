"""A small experiment on disk as the verbs before `score` leave it, with everything in it known."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from scipy.ndimage import gaussian_filter

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.scale import Scale
from behindthenoise.core.split import TRAIN, Split
from behindthenoise.core.tokens import TokenModel
from behindthenoise.io import stores, tables
from behindthenoise.io.geometry import Axes
from behindthenoise.io.record import read_json
from behindthenoise.run import average, calibrate, evaluate, ingest, models, score, scored, survey, token_models
from behindthenoise.run import thresholds as stored
from behindthenoise.run.heldout import HeldOut
from behindthenoise.run.pairs import Pairs
from behindthenoise.stages import STAGES, Spec

TOKENS = 3


@dataclass(frozen=True)
class Fields:
    """All numbers of an experiment."""

    role: np.ndarray  # image *space
    noisy: np.ndarray  # image scan channel *space
    clean: np.ndarray  # image channel *space
    members: np.ndarray  # member image scan quantile channel *space
    tokens: np.ndarray  # image scan *space
    value_unit: str = "a.u."
    difference: np.ndarray | None = None  # image channel *space


def simulated(shape, *, images=1, scans=1, channels=2, members=2, reach=1.0, seed=0, roles=(1, 2, 2, 3)):
    """Correlated errors, larger for later tokens; roles in bands along the last axis, tokens strewn."""
    random = np.random.default_rng(seed)

    def smooth(*lead):
        values = random.normal(size=(*lead, *shape))
        if reach:
            values = gaussian_filter(values, (*[0] * len(lead), *[reach] * len(shape)), mode="wrap")
        return values / values.std()

    bands = np.repeat(roles, -(-shape[-1] // len(roles)))[: shape[-1]].astype(np.uint8)
    role = np.broadcast_to(bands, (images, *shape)).copy()
    role[:, :1] = 0
    tokens = random.integers(1, TOKENS + 1, (images, scans, *shape)).astype(np.uint8)
    clean = 10 + 2 * smooth(images, channels)
    errors = (0.5 + 0.5 * tokens[:, :, None]) * smooth(images, scans, channels)
    median = clean[:, None] + errors + 0.1 * random.normal(size=(members, *errors.shape))
    width = random.uniform(0.8, 1.2, median.shape)
    quantiles = np.stack([median - width, median, median + width], axis=3)
    noisy = clean[:, None] + 3 * random.normal(size=errors.shape)
    single = (array.astype(np.float32) for array in (noisy, clean, quantiles))
    return Fields(role, *single, tokens)


@dataclass(frozen=True)
class Experiment:
    """Where everything lies, and the verbs on it."""

    folder: Path
    members: list[Path]
    shares: list[Path] = field(default_factory=list)

    @property
    def source(self):
        return HeldOut.open(self.folder / "pairs.zarr", self.folder / "heldout.zarr", self.folder / "labels.zarr")

    @property
    def common(self):
        return {name: self.folder / f"{name}.zarr" for name in ("pairs", "heldout", "labels")}

    def spec(self, verb, **calibration):
        """A specification without the fingerprint of the code, which takes longer than the verb."""
        content = CalibrationConfig(**calibration).model_dump(mode="json")
        return Spec("", {key: content[key.partition(".")[2]] for key in STAGES[verb].sections})

    def score(self, shares=1, **calibration):
        """What `survey` fixes and so many jobs of `score` count."""
        survey.run(
            self.spec("survey", **calibration),
            **self.common,
            tokens=self.folder / "tokens.npz",
            latents=[self.folder / f"latents-{index}.npz" for index in range(len(self.members))],
            rules=self.folder / "rules.npz",
        )
        self.shares.clear()
        for index in range(1, shares + 1):
            self.shares.append(self.folder / f"share-{index}.npz")
            files = {"rules": self.folder / "rules.npz", "scores": self.shares[-1]}
            score.run(self.spec("score"), **self.common, **files, share=f"{index}-of-{shares}")
        return scored.joined([scored.read(share) for share in self.shares])

    def calibrate(self, **calibration):
        """The calibration, the noisy scans' thresholds and the certificate."""
        calibrate.run(
            self.spec("calibrate", **calibration),
            **self.common,
            shares=self.shares,
            scores=self.folder / "scores.npz",
            thresholds=self.folder / "thresholds.json",
            certificate=self.folder / "certificate.json",
            levels=self.folder / "levels.csv",
        )
        return *stored.read(self.folder / "thresholds.json"), read_json(self.folder / "certificate.json")

    def evaluate(self, **calibration):
        """The tables by name."""
        evaluate.run(
            self.spec("evaluate", **calibration),
            **self.common,
            scores=self.folder / "scores.npz",
            thresholds=self.folder / "thresholds.json",
            members=self.members,
            folder=self.folder / "tables",
            manifest=self.folder / "evaluate.json",
        )
        return {name: tables.read(self.folder / "tables" / f"{name}.csv") for name in evaluate.TABLES}

    def quantiles(self):
        """The ensemble's quantiles and the spread of its members, whole."""
        group = zarr.open_group(self.folder / "heldout.zarr", mode="r")
        return group["quantiles"][...], group["spread"][...]

    def levels(self):
        return tables.read(self.folder / "levels.csv")


def written(folder, fields):
    """The experiment on disk."""
    channels, *shape = fields.noisy.shape[2:]
    space = ("z", "y", "x")[-len(shape) :]
    axes = Axes(space, tuple(f"c{index}" for index in range(channels)), fields.value_unit)
    # a fast scan is on a scale of its own: 2 times the clean one, plus 3
    scale = Scale(*([(value,) * channels for value in (0.0, 1.0, 0.0, 1.0, 2.0, 3.0)]))
    unit = np.where(fields.role == 0, np.int32(-1), np.int32(0))
    split = Split(fields.role, unit)
    pairs = Pairs(2 * fields.noisy + 3, fields.clean, fields.role > 0, split, scale, axes, 4)
    extra = {} if fields.difference is None else {"clean_difference": xr.Variable(("image", "channel", *space), fields.difference)}
    ingest.write_pairs(folder / "pairs.zarr", pairs, extra)

    edge = stores.CHUNK[len(shape)]
    paths = []
    for index, quantiles in enumerate(fields.members):
        paths.append(folder / f"member-{index}.zarr")
        group = stores.create_group(paths[-1], {"tiling_difference": 1e-6})
        chunks, dims = (1, 1, 3, channels, *[edge] * len(shape)), ("image", "scan", "quantile", "channel", *space)
        stores.create_array(group, "quantiles", quantiles.shape, dtype="float32", chunks=chunks, dims=dims)[...] = quantiles
        trains = np.flatnonzero(fields.role == TRAIN)
        rows = np.moveaxis(quantiles[:, 0], 0, 2).reshape(3, channels, -1)[:, :, trains]
        models.write_sample(
            folder / f"latents-{index}.npz",
            models.Sample(trains, np.zeros((trains.size, 1), np.float32), rows, np.zeros((0, 2), int)),
        )
    average.run(Spec("", {}), members=paths, store=folder / "heldout.zarr", manifest=folder / "average.json")

    group = stores.create_group(folder / "labels.zarr", {"tokens": TOKENS})
    chunks, dims = (1, 1, *[edge] * len(shape)), ("image", "scan", *space)
    stores.create_array(group, "tokens", fields.tokens.shape, dtype="uint8", chunks=chunks, dims=dims)[...] = fields.tokens
    token_models.write(folder / "tokens.npz", TokenModel.of_centroids(np.arange(TOKENS, dtype=np.float32)[:, None]))
    return Experiment(folder, paths)


@pytest.fixture(scope="session")
def simulate():
    return simulated


@pytest.fixture(scope="session")
def write():
    return written


@pytest.fixture
def make(tmp_path):
    """An experiment with these fields in a folder of its own."""

    def build(fields, name="experiment"):
        return written(tmp_path / name, fields)

    return build


@pytest.fixture(scope="session")
def chosen():
    """Of every field, voxels of one role in every scan."""

    def mask(fields, role):
        return np.broadcast_to((fields.role == role)[:, None], fields.tokens.shape)

    return mask
