"""
CARE, the supervised U-Net of CAREamics, trained for so many seconds of CPU time.

    .venv-care/bin/python bench/quality/care.py DATA.npz OUT.npz --seconds 120

It runs in a virtual environment of its own, because CAREamics and this project want different things:

    python -m venv .venv-care
    .venv-care/bin/pip install torch==2.13.0
    .venv-care/bin/pip install --no-deps -r bench/quality/requirements-care.txt

All without dependencies, or torchvision would bring another torch: it is used by CAREamics' other algorithms alone and
replaced by an empty module here.

Everything is CAREamics' own and its default (U-Net of depth 2 with 32 first channels and batch normalisation, MAE, flips and
rotations, Adam, best state on validation data), with these exceptions, each of them in its favour or needed for a budget:
- the clock ends training, so there is no early stopping, which by default would come after three epochs without improvement;
- over the budget the learning rate falls by half a cosine, as ours does, where the default is to wait for a plateau;
- validation data are given: CAREamics' own draw from ten scans of one field would validate on places that train;
- all channels are seen together.
"""

import argparse
import importlib.machinery
import json
import math
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback  # before the empty modules, which it would take for the real ones

for _name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[_name] = types.ModuleType(_name)
    sys.modules[_name].__dict__.update(__spec__=importlib.machinery.ModuleSpec(_name, None), __version__="0")
sys.modules["torchvision.transforms"].__dict__["functional"] = sys.modules["torchvision.transforms.functional"]

from careamics import CAREamist  # noqa: E402
from careamics.config import create_advanced_care_config  # noqa: E402

PATCH = 64
BATCH = 8
EPOCH = 20  # steps at most between two validations, so that the best state can be a late one
VALIDATION_IMAGES = 8  # of a set of images; CAREamics' own default is 8 patches
VALIDATION_COLUMNS = 64  # of a large field


class Budget(Callback):
    """Ends training when the CPU time is spent, and lowers the learning rate until then."""

    def __init__(self, seconds: float, rate: float) -> None:
        self.seconds, self.rate = seconds, rate
        self.spent = self.steps = 0
        self.start = 0.0

    def on_train_start(self, *_args: object) -> None:
        self.start = time.process_time()

    def on_train_batch_start(self, trainer: object, *_args: object) -> None:
        share = min((time.process_time() - self.start) / self.seconds, 1.0)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * share))

    def on_train_batch_end(self, trainer: object, *_args: object) -> None:
        self.steps += 1
        if time.process_time() - self.start >= self.seconds:
            trainer.should_stop = True

    def on_train_end(self, *_args: object) -> None:
        self.spent = time.process_time() - self.start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate; 1e-3 is CAREamics' default")
    parser.add_argument("--threads", type=int, default=1, help="more would wait for each other, and CPU time counts waiting")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with np.load(options.data) as loaded:
        noisy, clean, test = loaded["train_noisy"], loaded["train_clean"], loaded["test_noisy"]
    budget = Budget(options.seconds, options.rate)
    with tempfile.TemporaryDirectory() as work:
        careamist = CAREamist(configuration(noisy.shape[2], options), work_dir=work, callbacks=[budget], enable_progress_bar=False)
        careamist.train(**training_data(noisy, clean))
        epochs = careamist.trainer.current_epoch
        start = time.process_time()
        predictions, _ = careamist.predict(as_samples(test), batch_size=1)
    prediction = np.concatenate([np.asarray(part) for part in predictions]).reshape(test.shape)
    told = {
        "seconds": budget.spent,
        "parameters": sum(parameter.numel() for parameter in careamist.model.model.parameters()),
        "steps": budget.steps,
        "epochs": epochs,
        "validation": float(careamist.trainer.checkpoint_callback.best_model_score),
        "predict_seconds": time.process_time() - start,
    }
    np.savez(options.out, prediction=prediction.astype(np.float32), told=json.dumps(told))
    print(json.dumps(told))


def configuration(channels: int, options: argparse.Namespace) -> object:
    """CAREamics' configuration; workers would hide their CPU time from the clock."""
    return create_advanced_care_config(
        experiment_name="care",
        data_type="array",
        axes="SYX" if channels == 1 else "SCYX",
        n_channels_in=None if channels == 1 else channels,
        n_channels_out=None if channels == 1 else channels,
        patch_size=[PATCH, PATCH],
        batch_size=BATCH,
        num_epochs=100_000,
        num_steps=EPOCH,
        num_workers=0,
        independent_channels=False,
        optimizer_params={"lr": options.rate},
        early_stopping_params={"monitor": "val_loss", "mode": "min", "patience": 100_000},
        trainer_params={"accelerator": "cpu", "enable_model_summary": False},
        seed=options.seed,
    )


def training_data(noisy: np.ndarray, clean: np.ndarray) -> dict[str, np.ndarray]:
    """Pairs that train and pairs that validate, by CAREamics' names: the last images, or the right end of a field."""
    clean = np.broadcast_to(clean[:, None], noisy.shape)
    if noisy.shape[-1] == PATCH:
        train, validate = np.s_[:-VALIDATION_IMAGES], np.s_[-VALIDATION_IMAGES:]
    else:
        # Two scans are enough to validate on.
        train, validate = np.s_[..., :-VALIDATION_COLUMNS], np.s_[:, :2, ..., -VALIDATION_COLUMNS:]
    return {
        "train_data": as_samples(noisy[train]),
        "train_data_target": as_samples(clean[train]),
        "val_data": as_samples(noisy[validate]),
        "val_data_target": as_samples(clean[validate]),
    }


def as_samples(fields: np.ndarray) -> np.ndarray:
    """Scans of all images one after another, without the channel axis where there is one channel."""
    samples = fields.reshape(-1, *fields.shape[2:])
    return np.ascontiguousarray(samples[:, 0] if samples.shape[1] == 1 else samples)


if __name__ == "__main__":
    main()
