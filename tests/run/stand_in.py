"""
`btn` on a device that is none: `python stand_in.py FREE_BYTES [--stop] VERB ...`, where `--stop` asks training to end at once.

Its numbers lie in main memory, but torch takes them for those of another device, and whoever mixes them with the CPU's is refused
as a GPU refuses it. So code for GPUs runs where there is none; kernels, streams and recorded launches are not imitated.
"""

import signal
import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from behindthenoise.cli import main
from behindthenoise.run import networks, train

NAME = "stand_in"
COPYING = {"aten::_to_copy", "aten::copy_"}  # the ways from one device to another
INDEXING = {"aten::index", "aten::index_put_"}  # a GPU takes indices from the CPU
LEAVING = {"aten::_local_scalar_dense", "aten::equal"}  # give numbers of Python


class There(torch.Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "There":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, given=(), named=None):
        return carried_out(operation, given, named or {})


class OnStandIn(TorchDispatchMode):
    """While it lasts, what is made on the device is made there."""

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        return carried_out(operation, given, named or {})


def carried_out(operation: Any, given: Any, named: dict[str, Any]) -> Any:
    """The result of an operation, on the device if its tensors lie there or if it is asked for there."""
    name, wanted = operation.name().split(".")[0], named.get("device")
    tensors = [leaf for leaf in tree_leaves((given, named)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    here = any(not isinstance(tensor, There) and tensor.ndim for tensor in tensors)  # single numbers are welcome anywhere
    may = name in COPYING or (name in INDEXING and isinstance(given[0], There))
    if there and here and not may:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {NAME}:0 and cpu")
    if wanted is not None:
        there = torch.device(wanted).type == NAME
        named = {**named, "device": torch.device("cpu")}
    found = operation(*tree_map(_held, given), **tree_map(_held, named))
    if name.endswith("_"):
        return given[0] if isinstance(given[0], torch.Tensor) else None
    return tree_map(_there, found) if there and name not in LEAVING else found


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, There) else leaf


def _there(leaf: Any) -> Any:
    return There(leaf) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, There) else leaf


def tensor_of(data: Any, *, device: Any = None, made: Any = torch.tensor, **named: Any) -> torch.Tensor:
    """`torch.tensor`, which itself does not ask the mode."""
    found = made(data, **named)
    return found if device is None else found.to(device)


def prepare() -> None:
    """Let torch know the device."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.tensor = tensor_of


def ask_to_stop(*_: Any) -> None:
    """Take the place of a line of progress."""
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    free_bytes, *arguments = sys.argv[1:]
    if arguments[0] == "--stop":
        arguments, train.tell = arguments[1:], ask_to_stop
    prepare()
    networks.device = lambda **_: torch.device(NAME, 0)
    networks.free_bytes = lambda _: int(free_bytes)
    with OnStandIn():
        sys.exit(main(arguments))
