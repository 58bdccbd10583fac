"""
Incremental equals from scratch: after edits, growth, damage and kills, `snakemake` leaves what a fresh run leaves, byte for byte.

The rows of the README's table of changes are the scenarios: what runs must be what the table says, and what it leaves must be what
a fresh run of the edited configuration makes. The fresh run takes the same commands, one after another, without Snakemake.
"""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from scipy.ndimage import gaussian_filter

pytestmark = [pytest.mark.workflow, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
BASE = {
    "dataset": "tiny",
    "pairs": {
        "noisy": {"path": "data/noisy.npy", "axes": "image y x"},
        "clean": {"path": "data/clean.npy", "axes": "image y x"},
        "mask": {"path": "data/mask.npy", "axes": "y x"},
    },
    "volumes": {"wide": {"noisy": {"path": "data/wide.tif", "axes": "y x"}}},
    "split": {"by": "image", "train": 0.25, "calibration": 0.5, "test": 0.25},
    "network": {"depth": 4, "width": 2, "radius_max": 5, "latent": 3, "head": 4},
    "ensemble": {"size": 2},
    "training": {"steps": 6, "batch": 2, "patch": 24},
    "tokens": {"count": 3, "components": 3, "sample": 400},
    "inference": {"jobs": 2, "memory_gb": 2, "tile": 32},
    "regions": {"bright": {"channel": "value", "above": 0.5, "level": 0.5}},
}
GONE = object()


def edit(workflow, **changes):
    """Change the configuration by dotted keys, `__` for a dot; GONE takes a key away."""
    path = workflow.folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *sections, last = dotted.split("__")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
        if value is GONE:
            del section[last]
        else:
            section[last] = value
    path.write_text(yaml.safe_dump(content))


def write_data(folder):
    """Fast and slow scans of smooth fields, a mask, and a larger field; of 24 images 12 calibrate."""
    random = np.random.default_rng(0)
    clean = gaussian_filter(random.normal(size=(24, 24, 24)), (0, 2, 2)) * 5
    mask = np.ones((24, 24), bool)
    mask[:3, :4] = False
    folder.mkdir()
    np.save(folder / "clean.npy", clean.astype("f4"))
    np.save(folder / "noisy.npy", (clean + random.normal(0, 0.5, clean.shape)).astype("f4"))
    np.save(folder / "mask.npy", mask)
    for name, shape in {"wide": (40, 88), "more": (30, 30)}.items():
        field = gaussian_filter(random.normal(size=shape), 2) * 5 + random.normal(0, 0.5, shape)
        tifffile.imwrite(folder / f"{name}.tif", field.astype("f4"))


def write_mask(workflow, name, shape):
    """The source of a mask that is written."""
    mask = np.ones(shape, bool)
    mask[5:9, 6:12] = False
    np.save(workflow.folder / "data" / f"{name}.npy", mask)
    return {"path": f"data/{name}.npy", "axes": "y x"}


def edit_code(workflow, path, old, new):
    """Change one line of this workflow's own copy of the project."""
    copy = workflow.folder.parent / "edited"
    if workflow.project != copy:
        shutil.copytree(workflow.project, copy)
        workflow.project = copy
    file = copy / "src/behindthenoise" / path
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def base(tmp_path_factory, project, workflow_in):
    """A finished run on files; tests copy it."""
    workflow = workflow_in(tmp_path_factory.mktemp("base") / "run", project)
    write_data(workflow.folder / "data")
    (workflow.folder / "config.yaml").write_text(yaml.safe_dump(BASE))
    workflow.finish()
    return workflow


@pytest.fixture
def tree(base, tmp_path):
    return base.copy(tmp_path / "run")


@pytest.fixture(scope="session")
def fresh_results(tmp_path_factory, workflow_in):
    """What a fresh run with the configuration, data and code of a workflow makes; remembered."""
    known = {}

    def results(workflow):
        sources = [workflow.folder / "config.yaml", *sorted((workflow.folder / "data").iterdir())]
        code = sorted((workflow.project / "src").rglob("*.py"))
        key = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, *code])).hexdigest()
        if key not in known:
            fresh = workflow_in(tmp_path_factory.mktemp("fresh") / "run", workflow.project)
            shutil.copytree(workflow.folder / "data", fresh.folder / "data")
            shutil.copy(workflow.folder / "config.yaml", fresh.folder)
            run_in_one_process(fresh)
            known[key] = digests(fresh.results)
            shutil.rmtree(fresh.folder)
        return known[key]

    return results


def run_in_one_process(workflow):
    """All jobs of a fresh run, one after another, with one thread each, as Snakemake gives to most of them."""
    text = workflow.finish("--dry-run", "--printshellcmds")
    commands = [shlex.split(found) for found in re.findall(r"python -m behindthenoise (.*?)(?=;|\)? > )", text)]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one_process.py"))],
        input=json.dumps(commands),
        cwd=workflow.folder,
        env={**workflow.environment, **threads, "PYTHONPATH": str(workflow.project / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def digests(results):
    """
    SHA-256 of every file of a run but what tells when, where and how fast it was made.

    That is: records of runs, two columns of the histories, the date and duration in the report, and the random mark of a store of
    quantiles, which stands in its metadata and in the manifests of its jobs, and names the records of its shards.
    """
    marks = [
        json.loads(path.read_text())["attributes"]["instance"].encode()
        for path in results.glob("volumes/*/quantiles.zarr/zarr.json")
    ]
    found = {}
    for path in sorted(results.rglob("*")):
        name = str(path.relative_to(results))
        if not path.is_file() or name.endswith("run.json") or path.name == "checkpoint.safetensors":
            continue
        content = path.read_bytes()
        for mark in marks:
            content = content.replace(mark, b"")
        if path.name == "history.csv":
            content = b"\n".join(line.rsplit(b",", 2)[0] for line in content.splitlines())
        elif name.startswith("report/") and path.suffix in (".html", ".json"):
            content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000|[\d.]+( to [\d.]+)? s, up to [\d.]+ GB", b"", content)
        found[re.sub(r"(shards/[\d,]+)\.[0-9a-f]{16}\.json$", r"\1.json", name)] = hashlib.sha256(content).hexdigest()
    return found


# what belongs to a member, volume, share or list that the configuration has no more; it stays on the disk, and nobody reads it
FORMER = r"members/\d+/|volumes/[^/]+[/.]|calibration/shares/|volumes/[^/]+/(jobs|regions)/|report/figures/volume_"


def expect_fresh(workflow, fresh_results):
    """The files of a fresh run with their bytes; nothing to do; and beside them, only what former members and volumes have left."""
    found, expected = digests(workflow.results), fresh_results(workflow)
    assert sorted(expected.keys() - found.keys()) == []
    assert [name for name in expected if found[name] != expected[name]] == []
    assert [name for name in found.keys() - expected.keys() if not re.match(FORMER, name)] == []
    assert workflow.plan() == Counter()


def test_a_run_of_the_workflow_leaves_what_its_commands_leave(base, fresh_results):
    assert len(fresh_results(base)) > 60
    expect_fresh(base, fresh_results)


# ---------------------------------------------------------------- the README's table

# What is done for each row; several where the row says several things.
CHANGES = {
    "`ensemble.size` raised by one": [lambda tree: edit(tree, ensemble__size=3)],
    "`ensemble.size` lowered": [lambda tree: edit(tree, ensemble__size=1)],
    "`ensemble.seed`, `network.depth`": [lambda tree: edit(tree, ensemble__seed=1), lambda tree: edit(tree, network__depth=5)],
    "`training.steps`": [lambda tree: edit(tree, training__steps=8)],
    "`calibration.coverage`, `guarantee`": [
        lambda tree: edit(tree, calibration__coverage=0.75),
        lambda tree: edit(tree, calibration__guarantee="crc"),
    ],
    "`calibration.score`, `groups`": [lambda tree: edit(tree, calibration__score="cqr-r", calibration__groups=["intensity"])],
    "`calibration.jobs`": [lambda tree: edit(tree, calibration__jobs=3)],
    "`tokens.count`": [lambda tree: edit(tree, tokens__count=4)],
    "`tokens.fit_also_on`": [lambda tree: edit(tree, tokens__fit_also_on=["wide"])],
    "`tokens.classes`": [lambda tree: edit(tree, tokens__classes={"dark": [1], "bright": [2, 3]})],
    "`inference.spread`, `relative_error`": [lambda tree: edit(tree, inference__spread=True, inference__relative_error=0.01)],
    "`inference.jobs`": [lambda tree: edit(tree, inference__jobs=3)],
    "`inference.tile`": [lambda tree: edit(tree, inference__tile=16)],
    "a level or limit in `regions`": [lambda tree: edit(tree, regions__bright__above=0.3)],
    "one more list in `regions`": [lambda tree: edit(tree, regions__unsure={"channel": "value", "widest": 0.05})],
    "one more volume": [lambda tree: edit(tree, volumes__more={"noisy": {"path": "data/more.tif", "axes": "y x"}})],
    "one volume less": [lambda tree: edit(tree, volumes=GONE)],
    "the file of a volume, or its mask": [
        # with its time, which is older than the results
        lambda tree: shutil.copy2(tree.folder / "data/more.tif", tree.folder / "data/wide.tif"),
        lambda tree: edit(tree, volumes__wide__mask=write_mask(tree, "wide", (40, 88))),
    ],
    "a file of the pairs, their mask, `split`": [
        lambda tree: np.save(tree.folder / "data/clean.npy", 2 * np.load(tree.folder / "data/clean.npy")),
        lambda tree: write_mask(tree, "mask", (24, 24)),
        lambda tree: edit(tree, split={"by": "image", "train": 0.5, "calibration": 0.375, "test": 0.125}),
    ],
    "`pairs.spacing` of square pixels, `unit`, `origin`": [
        lambda tree: edit(tree, pairs__spacing={"y": 0.5, "x": 0.5}, pairs__unit="um"),
        lambda tree: edit(tree, pairs__origin={"y": -7, "x": 300}),
    ],
    "`spacing` or `origin` of one volume": [
        lambda tree: edit(tree, volumes__wide__spacing={"y": 0.5, "x": 0.25}),
        lambda tree: edit(tree, volumes__wide__origin={"x": 5.5}),
    ],
    "a comment in the code": [lambda tree: edit_code(tree, "core/network.py", "class Network(", "# a remark\nclass Network(")],
    "a line of code, as of `report/page.py`": [
        lambda tree: edit_code(tree, "report/page.py", "TOLD_FROM = 0.005", "TOLD_FROM = 0.006")
    ],
    "a line of code, as of `core/clustering.py`": [lambda tree: edit_code(tree, "core/clustering.py", "STEPS = 4", "STEPS = 3")],
    "a line of code, as of `core/training.py`": [lambda tree: edit_code(tree, "core/training.py", "return 0.5 *", "return 0.4 *")],
    "one more value in `sweep`": [lambda tree: edit(tree, sweep={"network": {"depth": [4, 5]}, "repeats": 1})],
    "a file deleted that a job made (inside a Zarr store, a figure: `btn verify`)": [
        lambda tree: (tree.results / "calibration/rules.npz").unlink()
    ],
}
# rows that name no rule by themselves
NAMED = {"a file deleted that a job made (inside a Zarr store, a figure: `btn verify`)": {"survey"}}
CASES = [(row, number) for row, changes in CHANGES.items() for number in range(len(changes))]


def table():
    """The README's table of changes: what changes, and the words on what runs again."""
    section = (ROOT / "README.md").read_text().split("## What runs again when something changes")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE)[1:])


def promised(row, graph):
    """Rules that the table says run again."""
    words = table()[row].split(";")[0] if table()[row].startswith("nothing") else table()[row]
    named = NAMED.get(row, set(re.findall(r"`(\w+)`", words)) & graph.keys())
    assert named or words == "nothing"
    if row.startswith("a line of code, as of `report"):
        return named
    waiting, found = sorted(named), set()
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += graph[rule] if "what follows" in words else []
    return found


@pytest.fixture(scope="session")
def graph(base):
    """For each rule, those that read what it makes; `all` reads everything."""
    text = base.finish("--rulegraph")
    names = dict(re.findall(r"(\d+)\[label = \"(\w+)\"", text))
    found = {name: [] for name in names.values() if name != "all"}
    for source, target in re.findall(r"(\d+) -> (\d+)", text):
        if names[target] != "all":
            found[names[source]].append(names[target])
    return found


def test_every_row_of_the_table_is_tried():
    assert list(table()) == list(CHANGES)


every_change = pytest.mark.parametrize(("row", "number"), CASES, ids=[f"{row} {number}".replace("`", "") for row, number in CASES])


@every_change
def test_a_change_runs_what_the_table_says(tree, graph, row, number):
    CHANGES[row][number](tree)
    found = set(tree.plan())
    assert found == promised(row, graph)
    if "no network" in table()[row]:
        assert not found & {"train", "predict", "infer"}
    if "no training" in table()[row]:
        assert "train" not in found


@pytest.mark.thorough
@every_change
def test_a_change_leaves_what_a_fresh_run_leaves(tree, fresh_results, row, number):
    CHANGES[row][number](tree)
    tree.finish()
    expect_fresh(tree, fresh_results)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "lost",
    [
        ["members/001/weights.safetensors"],
        pytest.param(["pairs.zarr", "ensemble"], marks=pytest.mark.thorough),
        ["report", "evaluation", "latents", "calibration", "volumes/wide", "volumes/wide.ome.zarr"],
        pytest.param(["members", "volumes/field/jobs/1-of-2.json", "volumes/field/input.zarr"], marks=pytest.mark.thorough),
    ],
    ids=" ".join,
)
def test_what_was_deleted_is_made_again(tree, fresh_results, lost):
    for name in lost:
        path = tree.results / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    tree.finish()
    expect_fresh(tree, fresh_results)


def test_every_file_of_a_job_is_missed(base, tree):
    """As none may be forgotten in `all`; where everything is deleted, all are asked for."""
    shutil.rmtree(tree.results)
    tree.results.mkdir()
    (asked,) = re.findall(r"rule all:\n    input: (.*)", tree.finish("--dry-run"))
    declared = [line.split("\t")[0] for line in base.finish("--summary").splitlines() if line.startswith("results/")]
    assert len(declared) > 70
    assert sorted(set(declared) - set(asked.split(", "))) == []


def test_a_lost_chunk_is_refused_and_not_taken_for_no_data(tree):
    (tree.results / "volumes/wide/input.zarr/noisy/c/0/0/0").unlink()
    edit(tree, inference__tile=16)
    assert tree.run("results/tiny/volumes/wide/finish.json").returncode != 0
    logs = [path.read_text() for path in tree.folder.glob("logs/tiny/*/wide*") if path.is_file()]
    logs += [path.read_text() for path in tree.folder.glob("logs/tiny/infer/wide/*.log")]
    assert any("1 of the 1 files of" in text and "btn verify" in text for text in logs)


# ---------------------------------------------------------------- stops


@pytest.mark.thorough
def test_a_stop_between_two_steps_leaves_nothing_stale(tree, fresh_results):
    """Another spacing leaves every array as it was; what reads attributes must run, although the first run has not come to it."""
    edit(tree, pairs__spacing={"y": 2, "x": 2}, pairs__unit="um", tokens__classes={"dark": [1], "bright": [2, 3]})
    tree.finish("--until", "finish")
    edit(tree, tokens__classes={"dark": [1], "light": [2, 3]})
    tree.finish("--until", "finish")
    tree.finish()
    expect_fresh(tree, fresh_results)


@pytest.mark.thorough
def test_other_shares_there_and_back_with_stops_leave_nothing_stale(tree, fresh_results):
    edit(tree, inference__jobs=3, training__steps=8)
    tree.finish("--until", "infer")
    edit(tree, inference__jobs=2, training__steps=6)
    tree.finish("--until", "embed", "average")
    tree.finish()
    expect_fresh(tree, fresh_results)


# ---------------------------------------------------------------- kills

EDITS = {
    "wire": {"ensemble__seed": 1},
    "train": {"ensemble__size": 3},
    "infer": {"volumes__more": {"noisy": {"path": "data/more.tif", "axes": "y x"}}},
    "calibrate": {"calibration__coverage": 0.75},
    "finish": {"tokens__classes": {"dark": [1], "bright": [2, 3]}},
    "ingest": {"split": {"by": "image", "train": 0.5, "calibration": 0.375, "test": 0.125}},
}


@pytest.mark.parametrize(
    ("verb", "whom", "delay_s"),
    [
        ("train", "job", 1.5),
        ("infer", "snakemake", 0.5),
        pytest.param("train", "both", 2.0, marks=pytest.mark.thorough),
        pytest.param("train", "snakemake", 2.0, marks=pytest.mark.thorough),
        pytest.param("infer", "both", 2.0, marks=pytest.mark.thorough),
        pytest.param("calibrate", "both", 1.0, marks=pytest.mark.thorough),
    ],
)
def test_after_a_kill_one_command_finishes_the_work(tree, fresh_results, verb, whom, delay_s):
    edit(tree, **EDITS[verb])
    tree.killed(verb, whom, delay_s)
    tree.finish("--rerun-incomplete")
    expect_fresh(tree, fresh_results)


def test_jobs_that_a_killed_snakemake_has_left_write_over_nothing(tree, fresh_results):
    """They would train for longer than the whole of the next run takes."""
    edit(tree, ensemble__seed=1, training__steps=100_000, training__patience=100_000)
    tree.killed("train", "snakemake", 1.0)
    edit(tree, ensemble__seed=0, training__steps=8, training__patience=GONE)
    tree.finish("--rerun-incomplete")
    said = [path.read_text() for path in tree.folder.glob("logs/tiny/train/*.log")]
    assert any("of an earlier run still makes" in text for text in said)
    expect_fresh(tree, fresh_results)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 5))])
def test_a_random_walk_of_edits_and_kills_ends_where_a_fresh_run_ends(tree, fresh_results, seed):
    """Six edits in random order, each followed by a run that ends, or is killed somewhere, or by no run."""
    random = np.random.default_rng(seed)
    for verb in random.permutation(list(EDITS)):
        edit(tree, **EDITS[str(verb)])
        what = random.choice(["job", "snakemake", "both", "finish", "nothing"])
        if what == "finish":
            tree.finish("--rerun-incomplete")
        elif what != "nothing":
            tree.killed(str(verb), what, random.uniform(0, 3))
    tree.finish("--rerun-incomplete")
    expect_fresh(tree, fresh_results)
