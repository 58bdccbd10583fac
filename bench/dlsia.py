"""
CPU time of our networks against DLSIA's, with the same nodes, the same edges and the same channels on each edge.

TUT are the settings of DLSIA's denoising tutorial (20 layers, latent 8, no sigmoid), ENS the defaults of its ensemble helper
(hidden 3, 20 layers, latent 8); heads have 16 hidden channels for each quantile. DLSIA draws the graph; ours takes it over, with
one dilation for each node that feeds others where DLSIA has one for each edge. Each is used as it is meant: DLSIA's with batch
statistics, ours folded in the forward rows. The rivals run in turn, in one process; milliseconds are CPU time of all threads, a
ratio is DLSIA's time over ours, and brackets hold the least and largest ratio of a graph. In training, the column of bfloat16
repeats float32: there are no gradients in bfloat16 on a CPU (docs/decisions/0010). The last column is the speed of ours in float32,
in multiply-adds of its convolutions (three times as many in training) a second, as a share of that of a large matrix product in the
same turns: nothing that computes the same numbers could be faster than ours by more than one over it.

    python -m venv .venv-dlsia
    .venv-dlsia/bin/pip install torch==2.13.0
    .venv-dlsia/bin/pip install --no-deps -r bench/requirements-dlsia.txt
    .venv-dlsia/bin/python bench/dlsia.py --quick

DLSIA's import asks for torchvision and torchmetrics, which it does not need here; empty modules stand in for them.
"""

import argparse
import gc
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# Threads that wait sleep: CPU time counts work, whoever else uses the machine. Read when torch is imported.
os.environ["OMP_WAIT_POLICY"] = "passive"
# Its default of 1024 holds fewer convolutions than the rivals have together: oneDNN would compile them anew at every turn.
os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "65536"
# Not this folder, where `import dlsia` would find this file; ours runs from its source.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

if find_spec("torchvision") is None:
    for name, wanted in {
        "torchvision": (),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": (),
        "torchvision.utils": ("save_image",),
        "torchmetrics": ("F1Score",),
    }.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(dict.fromkeys(wanted))

import numpy as np
import torch
from dlsia.core.networks import cerberus, construct_sms_ensemble, sms3d, smsnet
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from behindthenoise.core.architecture import Architecture
from behindthenoise.core.graph import Edge, Graph
from behindthenoise.core.network import Network

LAYERS, LATENT, HEAD = 20, 8, 16
DILATIONS = {"TUT": [1, 2, 3, 4, 5], "ENS": [1, 2, 3, 4]}
PRECISIONS = ("float32", "bfloat16")
PRODUCT = 1024  # edge of the matrices whose product tells what the processor can do
PASSES = {"forward": 1, "training": 3}  # over all multiply-adds: gradients by features and by weights are one each
QUANTILES = (0.05, 0.5, 0.95)
TUTORIAL = {"LL_alpha": 0.5, "LL_gamma": 0, "LL_min_degree": 5, "LL_max_degree": 5, "IL": 0.1, "LO": 0.1, "IO": False}

Wires = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Case:
    """One input, and how often each rival sees it for each graph."""

    shape: tuple[int, ...]
    repeats: int


# Batches of at least two: torch computes small float32 batches of one by its slow convolutions, which neither rival asks for.
CASES = (Case((8, 1, 64, 64), 9), Case((4, 1, 256, 256), 5), Case((2, 1, 64, 64, 64), 2))
QUICK = (Case((8, 1, 64, 64), 5), Case((2, 1, 32, 32, 32), 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--quick", action="store_true", help="small inputs alone; a few minutes")
    parser.add_argument("--profile", action="store_true", help="where our time goes, by operation, in place of the comparison")
    parser.add_argument("--seeds", type=int, default=3, help="graphs for each row")
    parser.add_argument(
        "--threads", type=int, default=2, help="1 where others use the machine: oneDNN's threads spin while they wait"
    )
    parser.add_argument("--normalisation", default="none", choices=["none", "weight", "batch"], help="of ours while training")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {processor()}")
    cases = QUICK if options.quick else CASES
    if options.profile:
        for kind in DILATIONS:
            for case in cases:
                show_profile(kind, case, options.normalisation)
        return
    print(
        "             input nodes edges  dlsia's     ours     pass     dlsia   float32 ratio             bfloat16 ratio  of product"
    )
    for case in cases:
        for kind in DILATIONS:
            compare(kind, case, options.seeds, options.normalisation)


def processor() -> str:
    """Name of the CPU, and its instructions that matter for bfloat16."""
    listed = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in listed)}
    found = sorted(flag for flag in facts.get("flags", "").split() if "bf16" in flag or "amx" in flag)
    return (
        f"{facts.get('model name', 'unknown CPU')}, torch uses {torch.backends.cpu.get_cpu_capability()}, "
        f"bfloat16 instructions: {' '.join(found) or 'none known'}"
    )


def compare(kind: str, case: Case, seeds: int, normalisation: str) -> None:
    """Print a row for forward and one for forward and backward."""
    timed: dict[str, list[dict[str, float]]] = {"forward": [], "training": []}
    facts = []
    matrix = torch.rand(PRODUCT, PRODUCT)
    for seed in range(seeds):
        noisy = draw_noisy(case, seed)
        theirs, edges, outputs = dlsia_network(kind, noisy.ndim - 2, seed)
        ours = {
            precision: our_network(edges, outputs, draw_dilations(kind, seed), noisy, precision, normalisation)
            for precision in PRECISIONS
        }
        folded = {precision: network.eval().folded() for precision, network in ours.items()}
        held = [held_bytes(rival, noisy) / noisy.nbytes for rival in (theirs.eval(), folded["float32"])]
        facts.append([max(edge[1] for edge in edges), len(edges), parameters(theirs), parameters(folded["float32"]), *held])
        for way, run, rivals in (("forward", forward, folded), ("training", step, ours)):
            both = {"dlsia": theirs, **rivals}
            runs = {name: run(rival.train(way == "training"), noisy) for name, rival in both.items()}
            taken = cpu_ms({**runs, "product": lambda: torch.mm(matrix, matrix)}, case.repeats)
            operations = PASSES[way] * folded["float32"].architecture.operations * noisy.numel()
            taken["share"] = operations / PRODUCT**3 * taken["product"] / taken["float32"]
            timed[way].append(taken)
    nodes, count, theirs_has, ours_has, *held = (statistics.median(column) for column in zip(*facts, strict=True))
    size = "x".join(map(str, (case.shape[0], *case.shape[2:])))
    for way, times in timed.items():
        remark = f"held after a forward: {held[0]:.0f} and {held[1]:.0f} times the input" if way == "forward" else ""
        print(
            f"{kind} {size:>11} {nodes:5.0f} {count:5.0f} {theirs_has:8.0f} {ours_has:8.0f} {way:>8} {row(times)}  {remark}",
            flush=True,
        )


def row(times: list[dict[str, float]]) -> str:
    """Medians over graphs, and the range of the ratios."""
    cells = [f"{statistics.median(graph['dlsia'] for graph in times):9.1f}"]
    for precision in PRECISIONS:
        ratios = [graph["dlsia"] / graph[precision] for graph in times]
        cells.append(f"{statistics.median(graph[precision] for graph in times):9.1f} {statistics.median(ratios):5.2f}")
        cells.append(f"({min(ratios):.2f}-{max(ratios):.2f})")
    cells.append(f"{statistics.median(graph['share'] for graph in times):12.0%}")
    return " ".join(cells)


def dlsia_network(kind: str, ndim: int, seed: int) -> tuple[nn.Module, Wires, list[int]]:
    """
    DLSIA's network, its edges (source, target, channels) between input and hidden nodes, and the nodes that feed its sink.

    Node 0 is the input, 1 to n are the hidden nodes in topological order, as DLSIA numbers them.
    """
    np.random.seed(seed)  # noqa: NPY002 - DLSIA draws from the global generator and takes no other
    if kind == "TUT":
        draw = {2: smsnet.random_SMS_network, 3: sms3d.random_3DSMS_network}[ndim]
        base = draw(1, LATENT, LAYERS, DILATIONS[kind], hidden_out_channels=[5], layer_probabilities=TUTORIAL)
    else:
        draw = {2: construct_sms_ensemble.construct_2dsms_ensembler, 3: construct_sms_ensemble.construct_3dsms_ensembler}[ndim]
        base = draw(1, 1, LATENT, LAYERS, hidden_channels=[3], dilation_choices=DILATIONS[kind])[0]
    (sink,) = base.sink
    edges = sorted(
        (int(source), int(target), int(data["channels"])) for source, target, data in base.network_graph.edges(data=True)
    )
    hidden = [edge for edge in edges if edge[1] != sink]
    return cerberus.Cerberus(1, 1, base, projection_layers=[HEAD]), hidden, [edge[0] for edge in edges if edge[1] == sink]


def draw_dilations(kind: str, seed: int) -> list[int]:
    """One for each node, as ours draws them; the input has 1."""
    return [1, *np.random.default_rng(seed).choice(DILATIONS[kind], size=LAYERS).tolist()]


def our_network(
    edges: Wires, outputs: list[int], dilations: list[int], noisy: Tensor, precision: str, normalisation: str
) -> Network:
    """Our network on these wires, with its own initialisation."""
    wires = sorted(Edge(source=start, target=end, dilation=dilations[start], channels=channels) for start, end, channels in edges)
    graph = Graph(depth=max(edge.target for edge in wires), edges=tuple(wires), outputs=tuple(outputs))
    architecture = Architecture(graph, noisy.ndim - 2, in_channels=1, out_channels=1, latent=LATENT, head=len(QUANTILES) * HEAD)
    network = Network(architecture, normalisation=normalisation, precision=precision)
    network.initialise(noisy, torch.Generator().manual_seed(0))
    return network


def draw_noisy(case: Case, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(case.shape, dtype=np.float32))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def forward(network: nn.Module, noisy: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        network(noisy)

    return run


def step(network: nn.Module, noisy: Tensor) -> Callable[[], None]:
    """Forward, the mean pinball loss of the three quantiles, backward; no optimiser, which would be the same for both."""
    clean = torch.zeros_like(noisy)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        found = network(noisy)
        quantiles = found[0].unbind(1) if isinstance(network, Network) else found
        errors = [clean - quantile for quantile in quantiles]
        losses = [torch.maximum(level * error, (level - 1) * error).mean() for level, error in zip(QUANTILES, errors, strict=True)]
        (sum(losses) / len(losses)).backward()

    return run


def cpu_ms(rivals: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU time of each, in milliseconds; they take turns, so that a busy moment of the machine hits all."""
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, run in rivals.items():
            start = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def held_bytes(network: nn.Module, noisy: Tensor) -> int:
    """Tensors that a first forward leaves behind when its results are thrown away."""
    before = storages()
    forward(network, noisy)()
    return sum(size for address, size in storages().items() if address not in before)


def storages() -> dict[int, int]:
    """Address and bytes of what every living tensor holds."""
    gc.collect()
    found = [thing.untyped_storage() for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def show_profile(kind: str, case: Case, normalisation: str) -> None:
    """Print our operations by their own CPU time."""
    _, edges, outputs = dlsia_network(kind, len(case.shape) - 2, 0)
    noisy = draw_noisy(case, 0)
    for precision in PRECISIONS:
        network = our_network(edges, outputs, draw_dilations(kind, 0), noisy, precision, normalisation)
        for way, run in (("forward", forward(network.eval().folded(), noisy)), ("training", step(network.train(), noisy))):
            run()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                run()
            events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            print(f"\n{kind} {case.shape} {precision} {way}: {total / 1e3:.1f} ms of the calling thread")
            for event in events[:12]:
                share = event.self_cpu_time_total / total
                print(f"  {share:6.1%} {event.self_cpu_time_total / 1e3:9.2f} ms {event.count:6} calls  {event.key}")


if __name__ == "__main__":
    main()
