import json
import os
import time
from pathlib import Path

import pytest
import yaml

from behindthenoise.config import parse
from behindthenoise.run import ledger, status
from behindthenoise.stages import STAGES
from behindthenoise.words import in_time

CONFIG = {
    "dataset": "some",
    "synthetic": {},
    "network": {"depth": 3},
    "ensemble": {"size": 3},
    "inference": {"jobs": 4},
    "volumes": {"large": {"synthetic": [100, 70]}},
}
TELLS = "12:00:01 step 20/80: loss 0.1, validation 0.2, rate 1e-3, at most 90 s left\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def shown_status():
    return status.status(Path("config.yaml"))


def row_of(rule):
    """Cells of the table, which stand two blanks or more apart; empty ones are left out."""
    lines = [line for line in shown_status().splitlines() if line.split()[:1] == [rule]]
    return [cell for cell in lines[0].split("  ") if cell.strip()]


def train(folder, member, *, seconds, memory):
    results = folder / "results/some/members" / member
    write(results / "train.json", {})
    write(results / "train.run.json", {"verb": "train", "seconds": seconds, "peak_memory_bytes": memory})


def test_an_untouched_folder_has_everything_before_it(folder):
    shown = shown_status()
    assert [cell.strip() for cell in row_of("train")] == ["train", "0 of 3", "3"]
    assert "0 of 40 jobs are done, 0 B on disk" in shown
    assert "Snakemake is not at work here" in shown


def test_seconds_memory_and_what_is_left_come_from_records(folder):
    train(folder, "000", seconds=100, memory=2e9)
    train(folder, "001", seconds=300, memory=1e9)
    assert [cell.strip() for cell in row_of("train")] == ["train", "2 of 3", "1", "3.33 min", "5 min", "2 GB", "about 3.33 min"]


def test_a_training_says_itself_what_is_left(folder):
    write(folder / "logs/some/train/002.log", TELLS)
    assert [cell.strip() for cell in row_of("train")] == ["train", "0 of 3", "1", "2", "about 90 s"]
    assert f"  train 002: {TELLS.strip()} (0 s ago)" in shown_status()


def test_the_last_sign_of_a_training_may_be_its_checkpoint(folder):
    log, checkpoint = folder / "logs/some/train/002.log", folder / "results/some/members/002/checkpoint.safetensors"
    write(log, TELLS)
    os.utime(log, (time.time() - 7200,) * 2)
    assert "(2 h ago)" in shown_status()
    write(checkpoint, "x" * 1000)
    os.utime(checkpoint, (time.time() - 30,) * 2)
    assert "(30 s ago)" in shown_status() and "1 kB" in " ".join(row_of("train"))


@pytest.mark.parametrize("last", ["btn train: error: no room", "ValueError: what no one has thought of", "Killed"])
def test_a_job_whose_log_ends_in_an_error_has_failed(folder, last):
    write(folder / "logs/some/train/001.log", f"{TELLS}{last}\n\n")
    assert [cell.strip() for cell in row_of("train")] == ["train", "0 of 3", "1", "2"]
    assert f"failed:\n  train 001: {last}" in shown_status()


def test_a_job_that_a_library_warns_of_still_runs(folder):
    warning = "/lib/torch/nn.py:88: UserWarning: this is slow\n  warnings.warn(slow)\n"
    write(folder / "logs/some/train/001.log", f"{TELLS}{warning}")
    assert "failed:" not in shown_status()
    write(
        folder / "logs/some/train/001.log",
        f"{TELLS}{warning}Traceback (most recent call last):\n  a line\ntorch.OutOfMemoryError: none",
    )
    assert "failed:\n  train 001: torch.OutOfMemoryError: none" in shown_status()


def test_a_job_that_is_done_needs_no_log(folder):
    write(folder / "results/some/pairs.json", {})
    write(folder / "logs/some/ingest.log", "btn ingest: error: of an earlier attempt\n")
    assert row_of("ingest")[1].strip() == "1 of 1"
    assert "failed:" not in shown_status()


def test_the_lock_of_snakemake_is_seen(folder):
    write(folder / ".snakemake/locks/0.input.lock", "")
    assert "Snakemake is at work here, or was killed" in shown_status()


def test_shards_are_counted_by_their_records_of_the_present_networks(folder):
    volume = folder / "results/some/volumes/large"
    write(volume / "input.json", {"shape": [100, 70]})
    write(volume / "quantiles.zarr/zarr.json", {"attributes": {"shard": [32, 64]}})
    assert "volume large: 0 of 8 shards" in shown_status()
    for index, name in enumerate(["0,0.aaaa.json", "32,0.aaaa.json", "0,64.aaaa.json", "0,0.bbbb.json", "64,0.bbbb.json"]):
        write(volume / "shards" / name, {"digests": []})
        os.utime(volume / "shards" / name, (1000 + index,) * 2)
    assert "volume large: 2 of 8 shards" in shown_status()
    write(volume / "finish.json", {})
    assert "volume large:" not in shown_status()


def test_space_is_counted_once_with_all_that_lies_below(folder):
    for name, count in {"zarr.json": 10, "noisy/c/0": 500, "noisy/c/1": 490}.items():
        write(folder / "results/some/pairs.zarr" / name, "x" * count)
    assert "1 kB" in " ".join(row_of("ingest")) and "1 kB on disk" in shown_status()


def test_every_rule_has_its_row():
    assert set(status.FILES) == {*STAGES, "sweep_wire", "sweep_train"} - {"check"}


def test_jobs_of_a_sweep_count_where_there_is_one():
    swept = parse({**CONFIG, "sweep": {"network": {"depth": [3, 4]}, "repeats": 2}})
    assert [len(status.jobs_of(swept)[rule]) for rule in ("sweep_wire", "sweep_train", "sweep")] == [4, 4, 1]
    assert "sweep" not in status.jobs_of(parse(CONFIG))


def test_many_jobs_are_told_in_few_lines(folder):
    content = {**CONFIG, "inference": {"jobs": 50}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    for item in range(1, 51):
        write(folder / f"logs/some/infer/large/{item}-of-50.log", "12:00:00 infer: works\n")
    shown = shown_status()
    assert shown.count("infer: works") == status.MOST_SHOWN and "and 38 more" in shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.123, "0.12 s"), (59.6, "60 s"), (119.0, "119 s"), (150.0, "2.5 min"), (9000.0, "2.5 h")]
)
def test_times_are_for_people(seconds, shown):
    assert in_time(seconds) == shown


def test_a_ledger_has_the_records_of_all_jobs_and_each_machine_once(folder):
    results = folder / "results/some"
    for name, seconds, host in (("pairs", 5, "a"), ("members/000/train", 70, "b"), ("members/001/train", 60.5, "b")):
        record = {"verb": name.split("/")[-1], "files": {}, "seconds": seconds, "peak_memory_bytes": int(seconds * 1e6)}
        write(results / f"{name}.run.json", {**record, "finished": "then", "host": host, "packages": {"torch": "2"}})
    ledger.write(parse(CONFIG), results, folder)
    content = json.loads((results / "run.json").read_text())
    assert content["machines"] == [{"host": "b", "packages": {"torch": "2"}}, {"host": "a", "packages": {"torch": "2"}}]
    assert content["jobs"]["members/001/train"] == {
        **{"verb": "train", "seconds": 60.5, "peak_memory_bytes": 60_500_000, "finished": "then"},
        "machine": 0,
    }
    assert (len(content["jobs"]), content["seconds"], content["peak_memory_bytes"]) == (3, 135.5, 70_000_000)
    assert content["config"]["ensemble"]["size"] == 3
    assert content["git"] is None, "no clone"


def test_a_ledger_knows_the_commit_and_whether_files_differ(folder):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        os.spawnlp(os.P_WAIT, "git", "git", "-C", str(folder), *who, *words)

    git("init", "--quiet")
    git("add", "config.yaml")
    git("commit", "--quiet", "--message", "one")
    clean = ledger.state_of(folder)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (folder / "new").touch()
    assert ledger.state_of(folder)["dirty"] is False, "results stand beside the code"
    (folder / "config.yaml").write_text("changed")
    assert ledger.state_of(folder) == {"commit": clean["commit"], "dirty": True}
