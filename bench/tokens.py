"""
Tokens against the truth, and against clusterings of intensities; and what assigning them costs.

`agreement` takes a finished run and the true phases of one of its volumes. Rivals are k-means on the channels of the fast scan, on
the same smoothed by Gaussians of many widths, of which the best in hindsight counts, and on the denoised medians; each is told the
number of clusters that ours found. Voxels without a true phase are left out.

    snakemake --configfile bench/real/blobs20.yaml
    python bench/tokens.py agreement results/blobs20 large --config bench/real/blobs20.yaml
    snakemake --configfile bench/real/standards.yaml
    python bench/tokens.py agreement results/standards minerals --labels ../shared/data/edx_mineral_standards.zarr
    python bench/tokens.py picture results/obj1 field 2 4 6 --out docs/figures/tokens_obj1.png     medians, embedding and tokens
    python bench/tokens.py twins --config bench/real/blobs20.yaml     how far the scan itself tells phases of one intensity apart
    snakemake --configfile bench/real/dose10.yaml
    python bench/tokens.py texture results/dose10 large --config bench/real/dose10.yaml     the same by latents
    python bench/tokens.py assign --voxels 1e8        an embedding on disk, against scikit-learn's predict; 2 GB of disk
"""

import argparse
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import numpy as np
import zarr
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_erosion, find_objects, gaussian_filter, label
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, homogeneity_score

from behindthenoise import config as configuration
from behindthenoise.core import synthetic
from behindthenoise.core.colours import token_colours
from behindthenoise.core.palette import rgba
from behindthenoise.core.tokens import TokenModel, assign
from behindthenoise.io import stores
from behindthenoise.io.stores import Cut
from behindthenoise.io.volumes import STATISTICS
from behindthenoise.run import fetch, token_models

WIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
FITTED = 50_000  # voxels that rivals are fitted to
SPREADS = (2.5, 3.5)  # voxels
TWIN_FIELD, SMALLEST_GRAIN = (384, 512), 20  # voxels
EDGE = 512  # of a file of the embedding of `assign`
COMPONENTS = 8


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    agree = modes.add_parser("agreement")
    agree.add_argument("results", type=Path)
    agree.add_argument("volume")
    truth = agree.add_mutually_exclusive_group(required=True)
    truth.add_argument("--config", type=Path, help="of a generated data set")
    truth.add_argument("--labels", type=Path, help="store with an array `labels`; 0 is no phase")
    drawn = modes.add_parser("picture")
    drawn.add_argument("results", type=Path)
    drawn.add_argument("volume")
    drawn.add_argument("counts", type=int, nargs="+")
    drawn.add_argument("--out", type=Path, required=True)
    alike = modes.add_parser("twins")
    alike.add_argument("--config", type=Path, required=True, help="of a generated data set")
    alike.add_argument("--doses", type=float, nargs="+", default=[1, 4, 10, 30, 100])
    local = modes.add_parser("texture")
    local.add_argument("results", type=Path)
    local.add_argument("volume")
    local.add_argument("--config", type=Path, required=True, help="of a generated data set")
    cost = modes.add_parser("assign")
    cost.add_argument("--voxels", type=float, default=1e7)
    cost.add_argument("--turns", type=int, default=3)
    cost.add_argument("--folder", type=Path, default=Path("build/tokens"))
    options = parser.parse_args()
    {"assign": assigning, "texture": texture, "twins": twins, "picture": picture, "agreement": agreement}[options.mode](options)


def picture(options: argparse.Namespace) -> None:
    """Draw one plane of a volume: the medians, the embedding in false colours, and its tokens at several counts."""
    finished = zarr.open_group(options.results / f"volumes/{options.volume}.ome.zarr", mode="r")
    model = token_models.read(options.results / "latents/tokens.npz")
    plane = tuple(size // 2 for size in finished["0"].shape[1:-2])
    image, finest = finished["0"][(slice(None), *plane)], finished["labels/finest/0"][(*plane, slice(None))]
    names = [channel["label"] for channel in finished.attrs["ome"]["omero"]["channels"]]
    shown = [(name, image[index]) for index, name in enumerate(names) if name.endswith(" median")]
    shown.append(("embedding", np.moveaxis(finished["embedding/0"][(slice(None), *plane)], 0, -1)))
    for count in options.counts:
        colours = np.array([rgba(colour)[:3] for colour in ("#ffffff", *token_colours(model.tree, count))], np.uint8)
        tokens = np.append(0, model.tree.levels[count - 1])[finest]
        shown.append((f"{count} tokens", colours[tokens]))
    rows = -(-len(shown) // 4)
    figure = Figure(figsize=(12, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, -(-len(shown) // rows), squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, (title, values) in zip(panels, shown, strict=False):
        limits = np.nanpercentile(values, (0.5, 99.5)) if values.ndim == 2 else (0, 255)
        panel.imshow(values, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        panel.set_title(title)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=60)
    Image.open(options.out).convert("RGB").quantize(128).save(options.out, optimize=True)


def agreement(options: argparse.Namespace) -> None:
    """Print the agreement of every clustering with the true phases."""
    finished = zarr.open_group(options.results / f"volumes/{options.volume}.ome.zarr", mode="r")
    labels = {name: np.asarray(finished[f"labels/{name}/0"]) for name in ("tokens", "finest")}
    image = np.asarray(finished["0"])
    channels = sum(channel["label"].endswith(" median") for channel in finished.attrs["ome"]["omero"]["channels"])
    medians = image[STATISTICS.index("median") : channels * len(STATISTICS) : len(STATISTICS)]
    noisy = np.asarray(zarr.open_group(options.results / f"volumes/{options.volume}/input.zarr", mode="r")["noisy"])
    phases = truth_of(options, labels["tokens"].shape)
    judged = (phases > 0) & (labels["tokens"] > 0)
    count = len(np.unique(labels["tokens"][judged]))
    print(f"{judged.sum()} voxels of {len(np.unique(phases[judged]))} phases; ours found {labels['tokens'].max()} tokens")
    print(f"{'':>34} {'clusters':>8} {'ARI':>6} {'homogeneity':>11}")
    row("tokens", labels["tokens"][judged], phases[judged])
    row("finest tokens", labels["finest"][judged], phases[judged])
    for clusters in sorted({count, len(np.unique(phases[judged]))}):
        row("k-means, denoised medians", clustered(medians, judged, clusters), phases[judged])
        row("k-means, channels", clustered(noisy, judged, clusters), phases[judged])
        for scaled in (False, True):
            found = {width: clustered(smoothed(noisy, judged, width, scaled=scaled), judged, clusters) for width in WIDTHS}
            best = max(WIDTHS, key=lambda width: adjusted_rand_score(phases[judged], found[width]))
            row(f"k-means, smoothed by {best:g}{', scaled' if scaled else ''}", found[best], phases[judged])


def truth_of(options: argparse.Namespace, shape: tuple[int, ...]) -> np.ndarray:
    """True phase of every voxel, from 1; 0 is none."""
    if options.labels is not None:
        return np.asarray(zarr.open_group(options.labels, mode="r")["labels"])
    config = configuration.load(options.config)
    assert config.synthetic is not None
    return synthetic.scene(config.synthetic, shape, fetch.FIELD_INDEX).labels.astype(int) + 1


def twins(options: argparse.Namespace) -> None:
    """
    Print how well the two phases of one intensity are told apart by who knows every grain's outline, the clean image without
    stripes, and the stripes' period: by the strongest wave of that period in any direction.
    """
    config = configuration.load(options.config).synthetic
    assert config is not None
    assert config.phases >= 4
    print(f"{'dose':>6} {'grains':>6} {'AUC':>5} {'voxels right at the best threshold':>34}")
    for dose in options.doses:
        scene = synthetic.scene(config.model_copy(update={"dose": dose}), TWIN_FIELD, fetch.FIELD_INDEX)
        plain = gaussian_filter(scene.clean[0], synthetic.RIPPLE_PERIOD / 2)
        noise = (scene.noisy[0, 0] - plain) / (synthetic.DARK_SCALE + synthetic.BRIGHT_SCALE * plain.clip(0))
        found = [
            (strongest_wave(noise[box], shape), phase == config.phases - 1, shape.sum())
            for phase in (config.phases - 2, config.phases - 1)
            for box, shape in grains_of(scene.labels == phase)
        ]
        power, striped, size = map(np.array, zip(*found, strict=True))
        auc = (power[striped][:, None] > power[~striped]).mean()
        right = max((size * ((power > limit) == striped)).sum() / size.sum() for limit in power)
        print(f"{dose:6g} {len(found):6} {auc:5.2f} {100 * right:32.0f} %", flush=True)


def grains_of(phase: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Box and inside of every grain that is large enough to have a texture, without its outermost voxels."""
    numbers, _ = label(binary_erosion(phase, iterations=2))
    for number, box in enumerate(find_objects(numbers), start=1):
        shape = numbers[box] == number
        if shape.sum() >= SMALLEST_GRAIN:
            yield box, shape


def strongest_wave(noise: np.ndarray, shape: np.ndarray) -> float:
    """Power of a wave of the stripes' period inside a grain, over that of white noise on average; the best of 36 directions."""
    inside = np.where(shape, noise - np.median(noise[shape]), 0).clip(-4, 4)
    down, right = np.mgrid[tuple(slice(size) for size in shape.shape)]
    turns = np.linspace(0, np.pi, 36, endpoint=False)
    steps = 2j * np.pi / synthetic.RIPPLE_PERIOD
    waves = (np.exp(steps * (np.cos(turn) * down + np.sin(turn) * right)) for turn in turns)
    return float(max(abs((inside * wave).sum()) ** 2 for wave in waves) / (inside**2).sum())


def texture(options: argparse.Namespace) -> None:
    """
    Print how well the twins are told apart with the embedding's spread in a neighbourhood: by a linear classifier that was told the
    phases of the left half of the field, on the other half, and by clusters, each of which counts as the twin it holds more of.
    """
    raw = zarr.open_group(options.results / f"volumes/{options.volume}/quantiles.zarr", mode="r")
    embedding, median = np.asarray(raw["embedding"], np.float32), np.asarray(raw["quantiles"])[1]
    config = configuration.load(options.config).synthetic
    assert config is not None
    phases = synthetic.scene(config, embedding.shape[1:], fetch.FIELD_INDEX).labels.astype(int)
    twin = phases >= config.phases - 2
    told = np.zeros(phases.shape, bool)
    told[:, : phases.shape[1] // 2] = True
    wide = {width: spread(embedding, width) for width in SPREADS}
    ways = {
        "embedding": embedding,
        **{f"median, its spread within {width}": np.r_[median, spread(median, width)] for width in SPREADS},
    }
    for width in SPREADS:
        mean = np.stack([gaussian_filter(one, width) for one in embedding])
        ways[f"embedding, its mean and spread within {width}"] = np.r_[embedding, mean, np.log(wide[width] + 1e-3)]
    for name, channels in ways.items():
        points = np.moveaxis(channels, 0, -1)
        points = (points - points.mean((0, 1))) / points.std((0, 1))
        found = LogisticRegression(max_iter=300).fit(points[told][::3], phases[told][::3]).predict(points[~told])
        right = (found == phases[~told])[twin[~told]].mean()
        print(
            f"told, {name}: {100 * right:.0f} % of the twins right, ARI {adjusted_rand_score(phases[~told], found):.3f}", flush=True
        )
    every = np.ones(phases.shape, bool)
    for weight, width in product((0, 1, 3), SPREADS):
        for count in (4, 6, 12):
            found = clustered(np.r_[embedding, weight * wide[width]], every, count)
            sides = [
                np.bincount(found[phases.ravel() == phase], minlength=count) for phase in (config.phases - 2, config.phases - 1)
            ]
            right = np.maximum(*sides).sum() / np.sum(sides)
            name = f"{count} clusters, {weight} times the spread within {width}"
            print(
                f"{name}: {100 * right:.0f} % of the twins right, ARI {adjusted_rand_score(phases.ravel(), found):.3f}", flush=True
            )


def spread(channels: np.ndarray, width: float) -> np.ndarray:
    """Standard deviation of every channel in a Gaussian neighbourhood."""
    variance = [gaussian_filter(one**2, width) - gaussian_filter(one, width) ** 2 for one in channels]
    return np.sqrt(np.maximum(variance, 0)).astype(np.float32)


def smoothed(noisy: np.ndarray, mask: np.ndarray, width: float, *, scaled: bool) -> np.ndarray:
    """Channels smoothed within the mask, each over its own spread if asked."""
    weight = np.maximum(gaussian_filter(mask.astype(np.float32), width), 1e-6)
    found = np.stack([gaussian_filter(np.where(mask, channel, 0), width) / weight for channel in noisy])
    return found / np.maximum(found[:, mask].std(axis=1), 1e-9).reshape(-1, *[1] * mask.ndim) if scaled else found


def clustered(channels: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Clusters of the voxels under a mask."""
    points = np.moveaxis(channels, 0, -1)[mask]
    chosen = np.random.default_rng(0).permutation(len(points))[:FITTED]
    return KMeans(count, n_init=5, random_state=0).fit(points[chosen]).predict(points)


def row(name: str, found: np.ndarray, phases: np.ndarray) -> None:
    """Print how one clustering agrees with the phases."""
    scores = adjusted_rand_score(phases, found), homogeneity_score(phases, found)
    print(f"{name:>34} {len(np.unique(found)):8} {scores[0]:6.3f} {scores[1]:11.3f}", flush=True)


def assigning(options: argparse.Namespace) -> None:
    """Print voxels per second of ours and of scikit-learn's predict, from the same store to labels, block by block."""
    side = int(np.ceil((options.voxels / EDGE) ** 0.5 / EDGE**0.5)) * EDGE
    shutil.rmtree(options.folder, ignore_errors=True)
    group = stores.create_group(options.folder / "embedding.zarr", {})
    array = stores.create_array(
        group,
        "embedding",
        (COMPONENTS, side, side),
        dtype="float16",
        chunks=Cut((COMPONENTS, EDGE, EDGE), (COMPONENTS, EDGE, EDGE)),
        dims=("component", "y", "x"),
    )
    random = np.random.default_rng(0)
    for block in stores.blocks(array):
        array[block] = random.normal(size=(COMPONENTS, EDGE, EDGE)).astype(np.float16)
    print(f"{side}^2 voxels, {COMPONENTS} components; voxels per CPU second in millions, reading included (reading alone below)")
    for count in (12, 40):
        model = TokenModel.of_centroids(random.normal(size=(count, COMPONENTS)))
        rival = KMeans(count, n_init=1, max_iter=1).fit(random.normal(size=(1000, COMPONENTS)).astype(np.float32))
        rival.cluster_centers_ = model.tree.centroids
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "ours": lambda block, model=model: assign(model, block),
            "predict": lambda block, rival=rival: rival.predict(block.reshape(COMPONENTS, -1).T.astype(np.float32)),
            "reading": lambda _: None,
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.turns):
            for name, way in ways.items():
                start = time.process_time()
                for block in read(array):
                    way(block)
                speeds[name].append(side**2 / (time.process_time() - start) / 1e6)
        middle = {name: statistics.median(values) for name, values in speeds.items()}
        told = ", ".join(f"{name} {value:.1f}" for name, value in middle.items())
        print(f"{count} tokens: {told}; ours / predict {middle['ours'] / middle['predict']:.2f}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    shutil.rmtree(options.folder)


def read(array: zarr.Array) -> Iterator[np.ndarray]:
    """Blocks of an array, a file at a time."""
    yield from (np.asarray(array[block]) for block in stores.blocks(array))


if __name__ == "__main__":
    main()
