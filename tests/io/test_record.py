import hashlib
import json
import re

import pytest

from behindthenoise import __version__
from behindthenoise.errors import StoreError
from behindthenoise.io.record import Countdown, file_digest, peak_memory_bytes, read_json, recorded, run_record, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_is_read_and_nothing_else_is_left(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"name": "Å"}}
    write_json(tmp_path / "new" / "some.json", content)
    assert read_json(tmp_path / "new" / "some.json") == content
    assert names(tmp_path / "new") == ["some.json"]


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "some.json", {"value": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "some.json", {"value": object()})
    assert read_json(tmp_path / "some.json") == {"value": 1}
    assert names(tmp_path) == ["some.json"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        write_json(tmp_path / name, {"b": 1, "a": [0.1, 2]})
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "other")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"absent\.json is not there; it is made by the workflow"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\x80", "[1, 2]", "3", '"text"', "null"])
def test_a_file_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"bad\.json cannot be read"):
        read_json(tmp_path / "bad.json")


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "some").write_bytes(b"content" * 100_000)
    assert file_digest(tmp_path / "some") == hashlib.sha256(b"content" * 100_000).hexdigest()


def test_a_job_is_recorded_beside_its_output(tmp_path, capsys):
    target, other = tmp_path / "made.json", tmp_path / "more" / "other.csv"
    options = {"other": other, "pairs": tmp_path / "pairs.zarr", "jobs": [1, 2, 3], "manifest": target}
    with recorded("train", options, ("manifest", "other")):
        write_json(target, {})
        write_json(other, {"a": 1})
        assert not run_record(target).exists()
    record = read_json(tmp_path / "made.run.json")
    assert (record["verb"], record["behindthenoise"]) == ("train", __version__)
    assert record["files"] == {"made.json": file_digest(target), "more/other.csv": file_digest(other)}
    assert {"torch", "numpy", "zarr", "snakemake"} <= record["packages"].keys()
    assert all(re.match(r"\d+\.\d+", version) for version in [record["python"], *record["packages"].values()])
    assert record["seconds"] >= 0
    assert 10_000_000 < record["peak_memory_bytes"] <= peak_memory_bytes()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", record["finished"])
    assert re.search(rf"train: behindthenoise {__version__}, .*jobs \[3 files\]", capsys.readouterr().err)


def test_a_job_that_fails_leaves_no_record(tmp_path):
    with pytest.raises(ZeroDivisionError), recorded("train", {"manifest": tmp_path / "made.json"}, ["manifest"]):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_job_that_makes_no_file_needs_no_record(tmp_path):
    with recorded("check", {"graph": tmp_path / "graph.json"}):
        pass
    assert names(tmp_path) == []


def test_the_record_stands_beside_the_manifest_of_any_name(tmp_path):
    assert run_record(tmp_path / "a.b.json") == tmp_path / "a.b.run.json"


def test_jobs_whose_files_differ_by_their_suffix_alone_have_a_record_each(tmp_path):
    found = {run_record(tmp_path / f"iron.{suffix}") for suffix in ("json", "png", "csv")}
    assert len(found) == 3 and all(path.name.endswith(".run.json") for path in found)


def test_files_that_no_option_names_are_recorded_with_the_others(tmp_path):
    with recorded("sweep", {"table": tmp_path / "table.csv"}, ["table"]) as further:
        for name in ("table.csv", "curves.png"):
            (tmp_path / name).write_text(name)
        further.append(tmp_path / "curves.png")
    files = read_json(tmp_path / "table.csv.run.json")["files"]
    assert files == {name: file_digest(tmp_path / name) for name in ("table.csv", "curves.png")}


def test_the_time_left_is_told_seldom_but_always_at_the_end(capsys):
    countdown = Countdown(3, "tiles", every_s=1000.0)
    for count in (1, 2, 3):
        countdown.done(count)
    assert re.fullmatch(r"\d\d:\d\d:\d\d 3/3 tiles, 0 s so far, about 0 s left\n", capsys.readouterr().err)


def test_a_record_is_plain_json(tmp_path):
    with recorded("report", {"page": tmp_path / "report.html"}, ["page"]):
        (tmp_path / "report.html").write_text("<p>")
    assert isinstance(json.loads((tmp_path / "report.html.run.json").read_text()), dict)
