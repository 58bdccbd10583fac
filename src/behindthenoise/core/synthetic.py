"""Generated scenes of known truth: grains of a few materials, a clean image of them, and fast scans of it."""

from dataclasses import dataclass
from math import gamma, log, pi, prod

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy.ndimage import gaussian_filter
from scipy.special import expit, gammaincinv

from behindthenoise.config import SyntheticConfig
from behindthenoise.errors import ConfigError

FIELD_EDGE = 64  # voxels; `config.blobs` counts the blobs in a field of this edge
FILLING = 0.75  # volume of all blobs over volume of the field; they overlap, so about half of it is matrix
REACH = 2.2  # of a blob, in its own radii, where its strength has fallen to 0.035 and its edge to nothing
ROUGHNESS = 0.25  # largest relative displacement of an outline
EDGE = 0.6  # voxels; an outline takes 4.4 times that from 10 to 90 %
DOME = 0.15  # share of its contrast that a blob loses from its centre to its outline
BLUR = 0.6  # voxels; the point spread of the imagined instrument
RIPPLE_PERIOD = 5.0  # voxels
RIPPLE_AMPLITUDE = 0.08  # well below the noise at dose 1: seen only by who looks at a neighbourhood
DARK_SCALE, BRIGHT_SCALE = 0.04, 0.26  # scale of the noise at level 0, and what level 1 adds; correlation 0.7 at dose 1
SKEW_SHAPE = 2.0  # of the gamma distribution; its skewness is 2 / sqrt(2)
MATERIALS, GRAINS, OUTLINES, SCANS = range(4)  # streams of randomness that one seed feeds


@dataclass(frozen=True)
class Scene:
    """
    A generated field with everything that is known about it.

    Attributes
    ----------
    clean
        The truth in units of level, from 0 to about 1.
    labels
        Phase of each voxel; 0 is the matrix.
    noisy
        Fast scans, independent of each other given `clean`; in units of level for asymmetric noise, in counts for poisson.
    """

    clean: Float32[np.ndarray, " channel *space"]
    labels: UInt8[np.ndarray, " *space"]
    noisy: Float32[np.ndarray, " scan channel *space"]


@dataclass(frozen=True)
class Materials:
    """
    What the phases look like, the same in all fields of one seed.

    Attributes
    ----------
    levels
        Intensity of each phase in each channel, in (0.1, 1). The matrix is the darkest.
    ripple
        Amplitude of the fine stripes of each phase, in units of level.
    """

    levels: Float32[np.ndarray, " channel phase"]
    ripple: Float32[np.ndarray, " phase"]


@dataclass(frozen=True)
class Grains:
    """
    Which blob rules each voxel.

    Attributes
    ----------
    owner
        Phase of the strongest blob, also where it is too weak to label the voxel; 0 where none reaches.
    strength
        Of that blob: 1 at its centre, 0.5 on its outline, 0 far away.
    stripes
        A wave of amplitude 1 along an axis of that blob.
    """

    owner: UInt8[np.ndarray, " *space"]
    strength: Float32[np.ndarray, " *space"]
    stripes: Float32[np.ndarray, " *space"]


@dataclass(frozen=True)
class Blob:
    """
    An ellipsoid.

    Attributes
    ----------
    centre
        In voxels; it may lie outside the field.
    axes
        Its semi-axes as columns, in voxels.
    phase
        Its material, 1 or more.
    offset
        Of its stripes, in radians.
    """

    centre: Float[np.ndarray, " ndim"]
    axes: Float[np.ndarray, " ndim ndim"]
    phase: int
    offset: float


def scene(config: SyntheticConfig, shape: tuple[int, ...], index: int) -> Scene:
    """
    Field number `index`, which depends on the seed, the index, the shape and the materials' settings alone.

    Parameters
    ----------
    config
        Materials, blobs and noise. Its own `shape` and `images` play no role. More scans or channels leave the first ones
        as they were.
    shape
        Voxels along each axis; any number of axes.
    index
        Which field, 0 or more.

    Raises
    ------
    ConfigError
        If there are more phases than labels of one byte.

    References
    ----------
    Zwart, Varga, Qafoku & Sethian (2025), arXiv:2505.08176: blobs under asymmetric, heteroskedastic noise.
    """
    if config.phases > 256:
        raise ConfigError(f"synthetic.phases is {config.phases}; labels have one byte, use at most 256 phases")
    look = materials(config)
    radius = _mean_radius(config, len(shape))
    blobs = _blobs(config, shape, _generator(config, GRAINS, index, *shape))
    drawn = grains(blobs, _roughness(radius / 3, shape, _generator(config, OUTLINES, index, *shape)))
    clean = _rendered(drawn, look, EDGE * log(2) / radius)
    scan = {"asymmetric": asymmetric, "poisson": poisson}[config.noise]
    noisy = [
        [scan(image, config.dose, _generator(config, SCANS, index, repeat, channel, *shape)) for channel, image in enumerate(clean)]
        for repeat in range(config.scans)
    ]
    labels = np.where(drawn.strength >= 0.5, drawn.owner, np.uint8(0))
    return Scene(clean=clean, labels=labels, noisy=np.array(noisy, np.float32))


def materials(config: SyntheticConfig) -> Materials:
    """
    Levels and textures of the phases.

    From four phases on, the last two have the same level in every channel and differ in texture alone: the last one is striped.
    """
    twins = config.phases >= 4
    distinct = config.phases - 1 if twins else config.phases
    levels = np.empty((config.channels, config.phases), np.float32)
    for channel, row in enumerate(levels):
        generator = _generator(config, MATERIALS, channel)
        # One level in each of equal steps, kept off the steps' borders, so that no two of them come close.
        steps = np.concatenate([[0], 1 + generator.permutation(distinct - 1)]) + generator.uniform(0.2, 0.8, distinct)
        row[:distinct] = 0.1 + 0.9 * steps / distinct
        row[distinct:] = row[distinct - 1]
    ripple = np.zeros(config.phases, np.float32)
    ripple[-1] = RIPPLE_AMPLITUDE * twins
    return Materials(levels, ripple)


def grains(blobs: list[Blob], roughness: Float32[np.ndarray, " *space"]) -> Grains:
    """
    The strongest blob at each voxel.

    Parameters
    ----------
    blobs
        In any order; it decides ties alone.
    roughness
        Relative displacement of the outlines at each voxel, within ±`ROUGHNESS`.
    """
    owner = np.zeros(roughness.shape, np.uint8)
    strength, stripes = np.zeros((2, *roughness.shape), np.float32)
    for blob in blobs:
        box = _box(blob, roughness.shape)
        voxels = np.meshgrid(*(np.arange(span.start, span.stop) for span in box), indexing="ij", sparse=True)
        offsets = np.stack(np.broadcast_arrays(*(axis - at for axis, at in zip(voxels, blob.centre, strict=True))))
        radius = np.linalg.norm(np.tensordot(np.linalg.inv(blob.axes), offsets, axes=1), axis=0) * (1 + roughness[box])
        own = np.exp2(-(radius**2)).astype(np.float32)
        direction = blob.axes[:, 0] / np.linalg.norm(blob.axes[:, 0])
        wave = np.cos(2 * pi / RIPPLE_PERIOD * np.tensordot(direction, offsets, axes=1) + blob.offset)
        wins = own > strength[box]
        owner[box][wins] = blob.phase
        strength[box][wins] = own[wins]
        stripes[box][wins] = wave[wins]
    return Grains(owner, strength, stripes)


def asymmetric(clean: Float32[np.ndarray, "..."], dose: float, generator: np.random.Generator) -> Float32[np.ndarray, "..."]:
    """
    A fast scan whose noise is white, skewed to the bright side and stronger where the signal is.

    The noise is a gamma variate of shape `SKEW_SHAPE` less its median, times `(DARK_SCALE + BRIGHT_SCALE clean) / sqrt(dose)`:
    its median is zero, its mean is not, and a dark voxel may come out negative.
    """
    scale = (DARK_SCALE + BRIGHT_SCALE * clean) / np.sqrt(dose)
    spread = generator.standard_gamma(SKEW_SHAPE, clean.shape) - gammaincinv(SKEW_SHAPE, 0.5)
    return np.asarray(clean + scale * spread, np.float32)


def poisson(clean: Float32[np.ndarray, "..."], dose: float, generator: np.random.Generator) -> Float32[np.ndarray, "..."]:
    """
    Photon counts with the expectation `dose * clean`, so that `dose` is the mean count at level 1.

    Whole numbers as floats. At low dose most voxels have none.
    """
    return generator.poisson(dose * clean).astype(np.float32)


def _generator(config: SyntheticConfig, *stream: int) -> np.random.Generator:
    """Randomness of one purpose, independent of all others and of the order in which they are asked."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=stream))


def _mean_radius(config: SyntheticConfig, ndim: int) -> float:
    """Radius in voxels at which `config.blobs` balls have `FILLING` of the volume of a field of edge `FIELD_EDGE`."""
    unit_ball = pi ** (ndim / 2) / gamma(ndim / 2 + 1)
    return float(FIELD_EDGE * (FILLING / (config.blobs * unit_ball)) ** (1 / ndim))


def _blobs(config: SyntheticConfig, shape: tuple[int, ...], generator: np.random.Generator) -> list[Blob]:
    """Blobs of random place, size, shape, orientation and material, at least three."""
    ndim, radius = len(shape), _mean_radius(config, len(shape))
    # Centres also fall around the field, or else its borders and thin fields would have fewer grains.
    margin = 1.5 * radius
    extent = np.array(shape) + 2 * margin
    count = max(3, round(config.blobs * prod(extent / FIELD_EDGE)))
    blobs = []
    for _ in range(count):
        rotation, _ = np.linalg.qr(generator.standard_normal((ndim, ndim)))
        stretch = generator.uniform(-0.5, 0.5, ndim)
        semiaxes = radius * generator.uniform(0.5, 1.5) * np.exp(stretch - stretch.mean())
        blobs.append(
            Blob(
                centre=generator.uniform(0, 1, ndim) * extent - margin,
                axes=rotation * semiaxes,
                phase=int(generator.integers(1, config.phases)),
                offset=float(generator.uniform(0, 2 * pi)),
            )
        )
    return blobs


def _roughness(scale: float, shape: tuple[int, ...], generator: np.random.Generator) -> Float32[np.ndarray, " *space"]:
    """Random field within ±`ROUGHNESS`, smooth over `scale` voxels, that makes the outlines irregular."""
    smooth = gaussian_filter(generator.standard_normal(shape, np.float32), scale)
    return np.asarray(ROUGHNESS * smooth / np.abs(smooth).max(), np.float32)


def _box(blob: Blob, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Part of the field that the blob can reach; empty where it lies outside."""
    half = REACH / (1 - ROUGHNESS) * np.linalg.norm(blob.axes, axis=1)
    start = np.clip(np.floor(blob.centre - half), 0, shape).astype(int)
    stop = np.clip(np.ceil(blob.centre + half) + 1, start, shape).astype(int)
    return tuple(slice(int(first), int(past)) for first, past in zip(start, stop, strict=True))


def _rendered(drawn: Grains, look: Materials, softness: float) -> Float32[np.ndarray, " channel *space"]:
    """Clean image of each channel: domes on the matrix, their edges `softness` wide in units of strength, with stripes."""
    cover = expit((drawn.strength - 0.5) / softness)
    dome = cover * (1 - 2 * DOME * (1 - drawn.strength))
    stripes = look.ripple[drawn.owner] * cover * drawn.stripes
    images = []
    for levels in look.levels:
        image = levels[0] + dome * (levels[drawn.owner] - levels[0])
        # Stripes come after the blur, which would weaken them.
        images.append(gaussian_filter(image, BLUR) + stripes)
    return np.array(images, np.float32)
