"""What a process does before networks run in it."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from behindthenoise.run.networks import device

assert {wanted}.type == "cpu"
torch.set_num_threads(1)
image = torch.ones(40, 512, 512)
for _ in range(3):
    image + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    image + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(wanted: str) -> int:
    """Pages that twenty sums of 42 MB ask the system for, after some that nothing is asked of."""
    done = subprocess.run([sys.executable, "-c", FAULTS.format(wanted=wanted)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_networks_on_a_cpu_use_the_memory_again_that_they_have_freed(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    assert faults("device()") < faults("torch.device('cpu')") / 2
