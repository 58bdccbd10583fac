"""What Snakemake says of the workflow: no complaint, the graph of the README, a report in one file; runs side by side."""

import json
import re
import subprocess
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_snakemake_has_no_complaint(fresh):
    fresh.configure(regions={"bright": {"channel": "channel 0", "above": 1.0}}, sweep={"network": {"depth": [3, 4]}})
    assert "Congratulations, your workflow is in a good condition!" in fresh.finish("--lint")


def reduced(edges):
    """Edges without those that a longer way stands for."""
    after = {rule: {end for start, end in edges if start == rule} for rule in {rule for edge in edges for rule in edge}}

    def beyond(rule):
        return after[rule] | {last for end in after[rule] for last in beyond(end)}

    return {(start, end) for start, end in edges if not any(end in beyond(other) for other in after[start])}


def test_the_rule_graph_of_the_readme_is_that_of_snakemake(fresh):
    fresh.configure(regions={"bright": {"channel": "channel 0", "above": 1.0}}, publish={"wide": "copies/wide.ome.zarr"})
    graph = fresh.run("--rulegraph", "mermaid-js").stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", graph))
    edges = {(names[start], names[end]) for start, end in re.findall(r"(id\d+) --> (id\d+)", graph)}
    (shown,) = re.findall(r"```mermaid\n(.*?)```", README, re.DOTALL)
    lines = [line.split(" --> ") for line in shown.splitlines() if "-->" in line]
    known = {(start.strip(), end) for start, ends in lines for end in ends.split(" & ")}
    expected: dict[str, list[str]] = {}
    for start, end in sorted(reduced(edges)):
        expected.setdefault(start, []).append(end)
    text = "\n".join(f"    {start} --> {' & '.join(ends)}" for start, ends in expected.items())
    assert len(edges) > 40 and known == reduced(edges), f"the README shall show these lines, in any order:\n{text}"


def test_a_report_of_snakemake_is_one_file_that_needs_no_network(finished, tmp_path):
    finished.finish("--report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|img)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", page)
    for rule in ("ingest", "train", "finish"):
        assert rule in page
    finished.finish("--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        names = Counter(Path(name).name for name in archive.namelist())
        (ours,) = (name for name in archive.namelist() if "/raw/" in name and name.endswith("report.html"))
        assert archive.read(ours) == (finished.results / "report/report.html").read_bytes()
    assert {"certificate.json", "levels.csv", "channels.csv", "tokens.csv"} <= names.keys()


def test_data_sets_of_one_folder_do_not_disturb_each_other(changed):
    """Two configurations of different `dataset`: each leaves the other's results as they are, and neither runs again."""
    before = {path: path.stat().st_mtime_ns for path in changed.folder.rglob("*") if "tiny" in path.parts and path.is_file()}
    assert len(before) > 100
    content = yaml.safe_load((changed.folder / "config.yaml").read_text())
    (changed.folder / "other.yaml").write_text(yaml.safe_dump({**content, "dataset": "other", "synthetic": {"shape": [32, 32]}}))
    target = "results/other/members/000/graph.json"
    assert changed.plan("--configfile", "other.yaml", "--", target) == Counter(ingest=1, wire=1)
    changed.finish("--configfile", "other.yaml", "--", target)
    assert {path: path.stat().st_mtime_ns for path in before if path.exists()} == before
    assert json.loads((changed.folder / "results/other/pairs.json").read_text())["shape"] == [32, 32]
    assert changed.plan() == Counter()
    assert changed.plan("--configfile", "other.yaml", "--", target) == Counter()


def test_a_folder_of_its_own_holds_all_of_a_run(fresh):
    """`--directory` takes results, logs, what Snakemake remembers, and relative paths with it; nothing of the first is seen."""
    place = fresh.folder / "elsewhere"
    place.mkdir()
    (place / "mine.yaml").write_text((fresh.folder / "config.yaml").read_text())
    target = "results/tiny/members/000/graph.json"
    fresh.finish("--directory", "elsewhere", "--configfile", "elsewhere/mine.yaml", "--", target)
    assert (place / target).exists() and (place / "logs/tiny/ingest.log").exists() and (place / ".snakemake").is_dir()
    assert not any((fresh.folder / name).exists() for name in ("results", "logs", "benchmarks", ".snakemake"))
    assert fresh.plan(target) == Counter(ingest=1, wire=1)


def test_two_runs_at_the_same_time_may_share_a_folder_but_no_files(fresh):
    """
    Snakemake locks files, not the folder: the same data set is refused, another one runs.

    Before it looks for locks it refuses files that are there and not finished, if the first has come so far.
    """
    target = "results/tiny/members/000/graph.json"
    content = yaml.safe_load((fresh.folder / "config.yaml").read_text())
    (fresh.folder / "other.yaml").write_text(yaml.safe_dump({**content, "dataset": "other"}))
    with subprocess.Popen(fresh.command("--", target), cwd=fresh.folder, env=fresh.environment, stderr=subprocess.DEVNULL) as first:
        while not list(fresh.folder.glob(".snakemake/locks/*")):
            assert first.poll() is None
            time.sleep(0.05)
        second = fresh.run("--", target)
        assert second.returncode and re.search("LockException|IncompleteFilesException", second.stdout + second.stderr)
        assert first.poll() is None, "the first ended too early to be in the way"
        fresh.finish("--configfile", "other.yaml", "--", target.replace("tiny", "other"))
    assert first.returncode == 0 and fresh.plan(target) == Counter()
