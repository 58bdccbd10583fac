"""
Data sets of the quality benchmark, in raw units, the same for every rival.

    python bench/quality/data.py WORK

writes `WORK/NAME.npz`: `train_noisy` and `test_noisy` (image scan channel y x), `train_clean` and `test_clean` (image channel y x),
all float32, and `about`, what is known about them, as JSON: channels, noise, and which test images are judged together. Whatever
a method tunes or validates, it does on the training part.
"""

import json
import sys
from pathlib import Path

import numpy as np
import zarr

from behindthenoise.config import SyntheticConfig
from behindthenoise.core import synthetic

REAL = Path(__file__).parents[3] / "shared" / "data"
GAP = 40  # voxels between training and test of one field, about twice the receptive radius of CARE's U-Net
IMAGES = 64
FIRST_TEST = 10_000  # images from this number on were never looked at while defaults were chosen
SEED, OTHER_SEED = 7, 8  # another seed has other materials: levels that training has not seen, and that reach beyond its own
ELEMENTS = ("Si", "Al", "Fe")

Arrays = dict[str, np.ndarray]


def main(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name, make in SETS.items():
        arrays, about = make()
        arrays = {key: np.ascontiguousarray(values, np.float32) for key, values in arrays.items()}
        np.savez(work / f"{name}.npz", **arrays, about=json.dumps(about))
        print(name, {key: values.shape for key, values in arrays.items()}, about)


def blobs(dose: float) -> tuple[Arrays, dict[str, object]]:
    """Generated images under asymmetric noise; half of the test images are of the materials that train, half of others."""
    config = SyntheticConfig(noise="asymmetric", dose=dose, seed=SEED)
    other = config.model_copy(update={"seed": OTHER_SEED})
    train = [synthetic.scene(config, (64, 64), index) for index in range(IMAGES)]
    test = [synthetic.scene(config, (64, 64), index) for index in range(FIRST_TEST, FIRST_TEST + IMAGES)]
    test += [synthetic.scene(other, (64, 64), index) for index in range(FIRST_TEST, FIRST_TEST + IMAGES)]
    parts = {
        f"{part}_{kind}": np.stack([getattr(scene, kind) for scene in scenes])
        for part, scenes in (("train", train), ("test", test))
        for kind in ("noisy", "clean")
    }
    about = {
        "noise": "asymmetric",
        "dark": synthetic.DARK_SCALE,
        "bright": synthetic.BRIGHT_SCALE,
        "channels": ["level"],
        "groups": {"same materials": [0, IMAGES], "other materials": [IMAGES, 2 * IMAGES]},
    }
    return parts, about


def gigadb() -> tuple[Arrays, dict[str, object]]:
    """Fluorescence at low and high exposure; the reference is put into the units of the noisy image, field by field."""
    group = zarr.open_group(REAL / "fluo_gigadb_dev.zarr", mode="r")
    fields = [group[name] for name in sorted(group)]  # zarr gives them in any order
    noisy = np.stack([field["noisy"][:] for field in fields])[:, None, None].astype(np.float32)
    clean = np.stack([field["reference"][:] * field.attrs["gain"] + field.attrs["offset"] for field in fields])[:, None]
    half = noisy.shape[-2] // 2
    parts = {
        "train_noisy": noisy[..., :half, :],
        "train_clean": clean[..., :half, :],
        "test_noisy": noisy[..., half + GAP :, :],
        "test_clean": clean[..., half + GAP :, :],
    }
    return parts, {"noise": "unknown", "channels": ["grey"], "groups": {"": [0, len(fields)]}}


def obj1() -> tuple[Arrays, dict[str, object]]:
    """X-ray counts: ten fast scans of one field; the reference is put into counts of one fast scan."""
    group = zarr.open_group(REAL / "edx_chondrite_obj1.zarr", mode="r")
    chosen = [group.attrs["elements"].index(element) for element in ELEMENTS]
    noisy = group["noisy_1e2"][:][None, :, chosen].astype(np.float32)
    clean = group["reference"][:][None, chosen] * (group.attrs["fractions"]["noisy_1e2"] / group.attrs["reference_fraction"])
    half, right = noisy.shape[-2] // 2, noisy.shape[-1] // 2
    parts = {
        "train_noisy": noisy[..., :half, :],
        "train_clean": clean[..., :half, :],
        "test_noisy": noisy[..., half + GAP :, right:],
        "test_clean": clean[..., half + GAP :, right:],
    }
    return parts, {"noise": "poisson", "channels": list(ELEMENTS), "groups": {"": [0, 1]}}


SETS = {"blobs_1": lambda: blobs(1.0), "blobs_2": lambda: blobs(0.25), "gigadb": gigadb, "obj1": obj1}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
