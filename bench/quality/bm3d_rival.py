"""
BM3D after the variance stabilisation that fits the noise, tuned on the training pairs.

    .venv-care/bin/python bench/quality/bm3d_rival.py DATA.npz OUT.npz

asymmetric noise   log(dark + bright x), which makes noise whose scale is linear in the clean level additive and alike everywhere
poisson            Anscombe with the exact unbiased inverse, iterated with binning, for low counts
unknown            a variance a + b x is fitted to the training pairs; x / b + a / b² is then like counts and treated as such

The training pairs decide about sigma, the profile and the iteration, and give a last affine correction of what the inverse and the
noise's own mean leave over. Channels are denoised one by one. Nothing is trained: CPU time is that of predicting the test images.

References
----------
Dabov et al. (2007), doi:10.1109/TIP.2007.901238; Makitalo & Foi (2013), doi:10.1109/TIP.2012.2202675; Azzari & Foi (2016),
doi:10.1109/LSP.2016.2580600.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import bm3d
import numpy as np
from scipy.ndimage import zoom

STRENGTHS = (0.7, 0.85, 1.0, 1.15, 1.3, 1.6)  # times sigma
PROFILES = ("np", "vn")  # vn is meant for strong noise
PLAIN = ((1.0, 1),)
# For each iteration the share of the counts, of which the last estimate is the rest, and the edge of the bins.
BLENDS = (PLAIN, ((1.0, 1), (0.5, 1)), ((1.0, 2), (0.5, 1)), ((1.0, 3), (0.6, 2), (0.3, 1)))
TUNING_IMAGES = 8
TUNING_CROP = 128

Blend = tuple[tuple[float, int], ...]
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stabiliser:
    """Values to values whose noise has the same variance everywhere, and the way back."""

    forward: Transform
    inverse: Transform
    sigma: float | None  # of the noise then; None where it must be measured
    blends: tuple[Blend, ...] = (PLAIN,)


@dataclass(frozen=True)
class Settings:
    """How one channel is denoised; `low` and `high` are its clean range, which BM3D's thresholds take for 0 and 1."""

    sigma: float
    low: float
    high: float
    profile: str = "np"
    blend: Blend = PLAIN
    gain: float = 1.0
    offset: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with np.load(options.data) as loaded:
        data = {key: loaded[key] for key in loaded}
    about = json.loads(str(data["about"]))
    prediction = np.empty_like(data["test_noisy"])
    chosen, tuning, spent = [], 0.0, 0.0
    for channel in range(prediction.shape[2]):
        start = time.process_time()
        stabiliser = logarithm(about["dark"], about["bright"]) if about["noise"] == "asymmetric" else ANSCOMBE
        noisy, clean = data["train_noisy"][:, :, channel], data["train_clean"][:, channel]
        gain, constant = fitted_noise(noisy, clean) if about["noise"] == "unknown" else (1.0, 0.0)
        settings = tuned(stabiliser, *tuning_part(noisy, clean), gain=gain, constant=constant)
        chosen.append({**vars(settings), "noise_gain": gain, "noise_constant": constant})
        tuning += time.process_time() - start
        start = time.process_time()
        for image, scan in product(range(len(prediction)), range(prediction.shape[1])):
            counts = as_counts(data["test_noisy"][image, scan, channel], gain, constant)
            prediction[image, scan, channel] = denoised(counts, stabiliser, settings)
        spent += time.process_time() - start
    told = {"seconds": 0.0, "parameters": 0, "tuning_seconds": tuning, "predict_seconds": spent, "settings": chosen}
    np.savez(options.out, prediction=prediction, told=json.dumps(told))
    print(json.dumps(told))


def logarithm(dark: float, bright: float) -> Stabiliser:
    """For noise of scale `dark + bright x`, whose ratio to its scale is alike everywhere."""
    least = 1e-3 * dark  # of the argument; the noise never gets there unless the dose is tiny

    def forward(x: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(dark + bright * x, least)) / bright

    return Stabiliser(forward, lambda y: (np.exp(bright * y) - dark) / bright, sigma=None)


def _anscombe_inverse(y: np.ndarray) -> np.ndarray:
    """The exact unbiased one, in closed form."""
    y = np.maximum(y, 2 * np.sqrt(3 / 8))
    return y**2 / 4 + np.sqrt(3 / 2) / 4 / y - 11 / 8 / y**2 + 5 / 8 * np.sqrt(3 / 2) / y**3 - 1 / 8


ANSCOMBE = Stabiliser(lambda x: 2 * np.sqrt(np.maximum(x + 3 / 8, 0)), _anscombe_inverse, sigma=1.0, blends=BLENDS)


def as_counts(values: np.ndarray, gain: float, constant: float) -> np.ndarray:
    """Values of variance `constant + gain x` as values whose variance is their mean."""
    return values / gain + constant / gain**2


def fitted_noise(noisy: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """Gain and constant of the variance as a line over the clean level, from bins of equally many voxels."""
    level = np.broadcast_to(clean[:, None], noisy.shape).ravel()
    error = (noisy - clean[:, None]).ravel()
    bins = np.array_split(np.argsort(level), 40)
    levels = np.array([level[part].mean() for part in bins])
    variances = np.array([error[part].var() for part in bins])
    # Each variance is uncertain in proportion to itself.
    gain, constant = np.polyfit(levels, variances, 1, w=1 / variances)
    return float(gain), float(constant)


def tuning_part(noisy: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A few training scans, and the middle of large ones, each with its clean image."""
    scans = min(noisy.shape[1], 2)
    images = np.linspace(0, len(noisy) - 1, min(len(noisy), TUNING_IMAGES)).astype(int)
    middle = tuple(slice(max(size - TUNING_CROP, 0) // 2, (size + min(TUNING_CROP, size)) // 2) for size in clean.shape[1:])
    part = noisy[images][:, :scans, *middle]
    return part.reshape(-1, *part.shape[2:]), np.repeat(clean[images][:, *middle], scans, axis=0)


def tuned(stabiliser: Stabiliser, noisy: np.ndarray, clean: np.ndarray, *, gain: float, constant: float) -> Settings:
    """Settings with the least squared error on training pairs, each judged after its own affine correction."""
    noisy, stable = as_counts(noisy, gain, constant), stabiliser.forward(as_counts(clean, gain, constant))
    low, high = np.quantile(stable, (0.001, 0.999))
    sigma = stabiliser.sigma or float((stabiliser.forward(noisy) - stable).std())
    start = Settings(sigma=sigma, low=float(low), high=float(high))
    best = judged(stabiliser, start, noisy, clean)
    # One setting after the other; the strength comes last, because it depends on both others.
    for name, values in (
        ("blend", stabiliser.blends),
        ("profile", PROFILES),
        ("sigma", [share * start.sigma for share in STRENGTHS]),
    ):
        tried = [judged(stabiliser, replace(best[1], **{name: value}), noisy, clean) for value in values]
        best = min(tried, key=lambda pair: pair[0])
    return best[1]


def judged(stabiliser: Stabiliser, settings: Settings, noisy: np.ndarray, clean: np.ndarray) -> tuple[float, Settings]:
    """Squared error of settings, and the same settings with their affine correction."""
    plain = replace(settings, gain=1.0, offset=0.0)
    estimate = np.stack([denoised(image, stabiliser, plain) for image in noisy])
    gain, offset = np.polyfit(estimate.ravel(), clean.ravel(), 1)
    corrected = replace(settings, gain=float(gain), offset=float(offset))
    return float(np.mean((gain * estimate + offset - clean) ** 2)), corrected


def denoised(noisy: np.ndarray, stabiliser: Stabiliser, settings: Settings) -> np.ndarray:
    """
    One image without noise.

    With counts z and the last estimate y, `s z + (1 - s) y` over s² has a variance close to its mean, like counts s⁻² as many;
    so have the sums over bins. Both make low counts higher ones.
    """
    estimate = noisy
    for share, edge in settings.blend:
        counts = binned((share * noisy + (1 - share) * estimate) / share**2, edge)
        stabilised = stabiliser.forward(counts)
        # BM3D's thresholds expect values from 0 to 1; where counts are higher than in the image itself, their range is wider.
        rise = (
            stabiliser.forward(binned(np.full((edge, edge), 1.0), edge) / share**2).item() / stabiliser.forward(np.ones(1)).item()
        )
        width = (settings.high - settings.low) * rise
        smooth = bm3d.bm3d((stabilised - settings.low) / width, settings.sigma / width, settings.profile).reshape(counts.shape)
        estimate = spread(stabiliser.inverse(smooth * width + settings.low), noisy.shape, edge) * share**2
    return settings.gain * estimate + settings.offset


def binned(values: np.ndarray, edge: int) -> np.ndarray:
    """Sums over squares, the last ones completed by reflection."""
    padded = np.pad(values, [(0, -size % edge) for size in values.shape], mode="symmetric")
    rows, columns = (size // edge for size in padded.shape)
    return padded.reshape(rows, edge, columns, edge).sum((1, 3))


def spread(sums: np.ndarray, shape: tuple[int, ...], edge: int) -> np.ndarray:
    """Sums over squares, interpolated to the voxels of an image."""
    if edge == 1:
        return sums
    return zoom(sums, edge, order=3, mode="nearest", grid_mode=True)[tuple(map(slice, shape))] / edge**2


if __name__ == "__main__":
    main()
