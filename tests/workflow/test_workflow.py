import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

from behindthenoise import config
from behindthenoise.cli import main
from behindthenoise.core import tiling
from behindthenoise.core.split import CALIBRATION, TEST, TRAIN
from behindthenoise.run import status, thresholds, verify

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[2]


def arrays(results):
    """Every array and model of a run, by path; records of time and versions are no results."""
    found = {}
    for path in sorted(results.rglob("zarr.json")):
        if json.loads(path.read_text())["node_type"] == "array":
            found[str(path.parent.relative_to(results))] = np.asarray(zarr.open_array(path.parent, mode="r")[...])
    for pattern in ("*.safetensors", "*.npz", "history.csv", "evaluation/*.csv", "thresholds.json", "certificate.json"):
        for path in sorted(results.rglob(pattern)):
            text = path.read_bytes()
            if path.name == "history.csv":  # its last two columns are time and throughput
                text = b"\n".join(line.rsplit(b",", 2)[0] for line in text.splitlines())
            found[str(path.relative_to(results))] = np.frombuffer(text, np.uint8)
    return found


def test_the_last_line_of_a_run_says_where_the_report_is(finished):
    assert f"The report is {finished.results}/report/report.html\n" in finished.said
    assert "figure of the sweep" not in finished.said


def test_the_ledger_of_a_run_has_every_job(finished):
    ledger = json.loads((finished.results / "run.json").read_text())
    some = {"pairs", "members/000/train", "members/001/predict", "volumes/wide/jobs/2-of-2", "report/report.html"}
    assert some <= ledger["jobs"].keys()
    assert all(job["seconds"] >= 0 and job["peak_memory_bytes"] > 0 for job in ledger["jobs"].values())
    assert ledger["seconds"] > ledger["jobs"]["members/000/train"]["seconds"] > 0
    assert ledger["config"]["ensemble"]["size"] == 2
    assert len({machine["host"] for machine in ledger["machines"]}) == 1
    assert all({"torch", "numpy"} <= machine["packages"].keys() for machine in ledger["machines"])


def test_a_ledger_that_cannot_be_written_spoils_nothing(changed):
    (changed.results / "run.json").unlink()
    (changed.results / "run.json.partial").mkdir()
    (changed.results / "report/report.html").unlink()
    assert "results/tiny/run.json cannot be written: " in changed.finish()


def test_the_status_counts_the_jobs_that_snakemake_would_run(finished, monkeypatch, capsys):
    every = finished.plan("--forceall")
    monkeypatch.chdir(finished.folder)
    assert {rule: len(jobs) for rule, jobs in status.jobs_of(config.load(Path("config.yaml"))).items()} == every
    assert main(["status", "config.yaml"]) == 0
    shown = capsys.readouterr().out
    assert f"{every.total()} of {every.total()} jobs are done, " in shown
    assert "begun:" not in shown and "failed:" not in shown
    for line in shown.splitlines()[1 : 1 + len(every)]:
        rule, done, _, *taken = re.split(r"\s{2,}", line)
        assert done == f"{every[rule]} of {every[rule]}"
        assert [words.split()[-1] for words in taken] == ([] if rule == "plan" else ["s", "s", "MB"])


def test_a_finished_run_has_nothing_left_to_do(finished):
    assert finished.plan() == Counter()


def test_the_same_seed_gives_identical_results(finished, fresh):
    fresh.finish()
    first, second = arrays(finished.results), arrays(fresh.results)
    assert first.keys() == second.keys()
    assert len(first) > 20
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_one_member_more_trains_exactly_one_network(changed):
    weights = {path: path.read_bytes() for path in changed.results.glob("members/*/weights.safetensors")}
    changed.configure(ensemble={"size": 3})
    plan = changed.plan()
    assert (plan["wire"], plan["train"], plan["predict"]) == (1, 1, 1)
    assert plan["ingest"] == 0
    changed.finish()
    assert len(list(changed.results.glob("members/*/weights.safetensors"))) == 3
    assert all(path.read_bytes() == content for path, content in weights.items())
    assert changed.plan() == Counter()


def test_a_measured_volume_has_its_own_voxels_and_place_in_store_and_report(changed):
    pixels = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    tifffile.imwrite(changed.folder / "map.ome.tif", np.ones((40, 50), np.float32), metadata={"axes": "YX", **pixels})
    own = {"noisy": "map.ome.tif", "crop": {"y": [8, 40]}, "origin": {"y": 100, "x": -7}}
    changed.configure(volumes={"own": own})
    assert "warning: volume own has voxels of 0.25 x 0.5 micrometer" in changed.finish()  # on the terminal
    image = zarr.open_group(changed.results / "volumes/own.ome.zarr", mode="r").attrs["ome"]["multiscales"][0]
    scale, shift = image["datasets"][0]["coordinateTransformations"]
    assert (scale["scale"], shift["translation"]) == ([1, 0.25, 0.5], [0, 102, -7])
    assert [axis.get("unit") for axis in image["axes"]] == [None, "micrometer", "micrometer"]
    drawn = {one["name"]: one for one in json.loads((changed.results / "report/content.json").read_text())["slices"]}
    assert {key: drawn["own"][key] for key in ("spacing", "origin", "length_unit")} == {
        "spacing": [0.25, 0.5],
        "origin": [102, -7],
        "length_unit": "micrometer",
    }
    assert drawn["own"]["unlike"] == "0.25 x 0.5 micrometer, those of the training pairs 1 x 1 pixel"
    assert (drawn["wide"]["length_unit"], drawn["wide"]["unlike"]) == ("pixel", "")


NETWORK_RULES = ("train", "predict", "infer")


def test_two_changes_run_what_each_of_them_runs(changed):
    changed.configure(ensemble={"size": 1}, calibration={"coverage": 0.8})
    every = set(changed.plan("--forceall"))
    assert set(changed.plan()) == every - {"ingest", "fetch", "place", "wire", "train", "predict"}


def test_one_volume_more_reads_and_infers_that_volume_alone(changed):
    changed.configure(volumes={"more": {"synthetic": [30, 30]}})
    plan = changed.plan()
    assert (plan["fetch"], plan["infer"], plan["finish"], plan["report"]) == (1, 2, 1, 1)


FITTED_ON_WIDE = {"tokens": {"fit_also_on": ["wide"]}}


def test_tokens_that_are_fitted_on_a_volume_as_well_wait_for_it(fresh):
    fresh.configure(**FITTED_ON_WIDE)
    once = Counter(["ingest", "wire", "train", "predict", "fetch"])
    assert fresh.plan("results/tiny/members/000/predict.json") == once
    text = fresh.finish("--dry-run", "results/tiny/members/000/predict.json")
    (inputs,) = re.findall(r"^rule predict:\n    input: (.*)", text, re.MULTILINE)
    assert "results/tiny/volumes/wide/input.json" in inputs


def test_to_fit_tokens_on_a_volume_as_well_trains_nothing(changed):
    changed.configure(**FITTED_ON_WIDE)
    assert set(changed.plan()) == set(changed.plan("--forceall")) - {"ingest", "fetch", "place", "wire", "train", "plan"}
    changed.finish("results/tiny/volumes/wide/finish.json")
    samples = [dict(np.load(path)) for path in sorted(changed.results.glob("members/*/latents.npz"))]
    voxels = samples[0]["voxels"]
    assert all(np.array_equal(sample["voxels"], voxels) for sample in samples)
    assert 100 < (voxels < 0).sum() <= 400
    # what was predicted tile by tile for the volume is what the sample holds
    flat = -1 - voxels[voxels < 0]
    whole = zarr.open_array(changed.results / "volumes/wide/quantiles.zarr/quantiles", mode="r")[...].reshape(3, 1, -1)
    sampled = np.mean([sample["quantiles"] for sample in samples], axis=0)[..., voxels < 0]
    np.testing.assert_allclose(sampled, whole[..., flat], atol=1e-5 * whole.std())
    novelty = zarr.open_array(changed.results / "volumes/wide.ome.zarr/0", mode="r")[-1]
    assert ((novelty >= 0) & (novelty < 1)).all()


def test_another_coverage_runs_no_network_and_holds_afterwards(changed):
    before = {path: path.stat().st_mtime_ns for name in NETWORK_RULES for path in networks_results(changed, name)}
    assert before
    changed.configure(calibration={"coverage": 0.75})
    changed.finish()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    certificate = json.loads((changed.results / "calibration/certificate.json").read_text())
    assert "75 %" in certificate["statement"]


def networks_results(workflow, rule):
    """Files that a rule which runs networks has written."""
    patterns = {"train": "members/*/weights.safetensors", "predict": "members/*/predict.json", "infer": "volumes/*/jobs/*.json"}
    return list(workflow.results.glob(patterns[rule]))


def test_pairs_open_in_xarray_with_names_and_their_places_lie_beside_them(finished):
    pairs = xr.open_zarr(finished.results / "pairs.zarr", consolidated=False)
    assert pairs["noisy"].dims == ("image", "scan", "channel", "y", "x")
    assert pairs["clean"].dims == ("image", "channel", "y", "x")
    assert pairs["clean"].attrs["units"] == "level"
    assert list(pairs["channel"].values) == ["channel 0"]
    place = json.loads((finished.results / "volumes/field/geometry.json").read_text())
    assert (place["space"], place["spacing"], place["origin"], place["unit"]) == (["y", "x"], [1, 1], [0, 0], "pixel")


def test_scale_constants_come_from_training_voxels_alone(finished):
    pairs = xr.open_zarr(finished.results / "pairs.zarr", consolidated=False).load()
    trains = pairs["role"].values == TRAIN
    noisy = pairs["noisy"].values[:, 0, 0][trains]
    assert pairs.attrs["scale"]["noisy_shift"][0] == pytest.approx(noisy.mean(), rel=1e-5)
    assert pairs.attrs["scale"]["noisy_scale"][0] == pytest.approx(noisy.std(), rel=1e-5)


def test_held_out_quantiles_exist_only_where_nothing_trains(finished):
    role = xr.open_zarr(finished.results / "pairs.zarr", consolidated=False)["role"].values
    quantiles = zarr.open_array(finished.results / "ensemble/heldout.zarr/quantiles", mode="r")[...]
    predicted = np.isfinite(quantiles).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(predicted, np.isin(role, (CALIBRATION, TEST)))


def test_the_calibrated_intervals_hold_on_the_calibration_voxels_as_often_as_their_rank_says(finished):
    pairs = xr.open_zarr(finished.results / "pairs.zarr", consolidated=False).load()
    chosen = pairs["role"].values == CALIBRATION
    quantiles = zarr.open_array(finished.results / "ensemble/heldout.zarr/quantiles", mode="r")[...][:, 0, :, 0]
    token = zarr.open_array(finished.results / "ensemble/tokens.zarr/tokens", mode="r")[:, 0][chosen]
    rows = json.loads((finished.results / "calibration/certificate.json").read_text())["channels"]
    truth, heldout = pairs["clean"].values[:, 0][chosen], np.stack([quantiles[:, level][chosen] for level in range(3)])
    calibration, _ = thresholds.read(finished.results / "calibration/thresholds.json")
    low, high = calibration.interval(0, heldout, token, np.zeros_like(truth), (None, None))
    inside = (low <= truth) & (truth <= high)
    for row in rows:
        of_row = np.isin([f"token {number}" for number in token], row["groups"])
        assert (inside & of_row).sum() >= row["rank"]
        assert of_row.sum() == row["pixels"]
    assert sum(row["pixels"] for row in rows) == chosen.sum()


def test_a_volume_equals_the_average_of_the_members_on_the_whole_field(finished):
    """The field of the pairs was predicted untiled by `predict` and in tiles by `infer`."""
    raw = zarr.open_array(finished.results / "volumes/field/quantiles.zarr/quantiles", mode="r")[...]
    held_out = zarr.open_array(finished.results / "ensemble/heldout.zarr/quantiles", mode="r")[...]
    role = xr.open_zarr(finished.results / "pairs.zarr", consolidated=False)["role"].values
    image = int(np.argmax((role == TEST).any(axis=(1, 2))))
    np.testing.assert_allclose(raw, held_out[image, 0], atol=1e-5 * raw.std())


def test_every_tile_of_a_volume_was_written_by_exactly_one_job(finished):
    folder = finished.results / "volumes/wide"
    corners = [corner for path in folder.glob("jobs/*-of-2.json") for corner in json.loads(path.read_text())["shards"]]
    expected = [f"{tile.core[0].start},{tile.core[1].start}" for tile in tiling.tiles((40, 88), (32, 32), 0)]
    assert sorted(corners) == sorted(expected)
    assert np.isfinite(zarr.open_array(folder / "quantiles.zarr/quantiles", mode="r")[...]).all()


def test_finished_volumes_are_ordered_and_fully_labelled(finished):
    group = zarr.open_group(finished.results / "volumes/wide.ome.zarr", mode="r")
    lower, median, upper, width, novelty = group["0"][...]
    assert ((novelty >= 0) & (novelty < 1)).all()
    assert (lower <= median).all() and (median <= upper).all()
    np.testing.assert_allclose(width, upper - lower, rtol=1e-6)
    tokens, finest = (group[f"labels/{name}/0"][...] for name in ("tokens", "finest"))
    assert set(np.unique(tokens)) <= {1, 2, 3}
    known = {row["label-value"]: row["token"] for row in group["labels/finest"].attrs["ome"]["image-label"]["properties"]}
    np.testing.assert_array_equal(np.vectorize(known.get)(finest), tokens)


def test_what_a_run_has_left_is_found_whole(finished):
    count, damages = verify.verify(finished.results)
    assert damages == []
    # arrays: 5 of pairs, 2 of each member, 3 of the ensemble, 2 inputs, 3 raw ones and at least 2 finished ones of each volume
    arrays = 5 + 2 * 2 + 3 + 2 * (2 + 3 + 2)
    # files: of each member 6; of the ensemble 12, and 9 tables; of each volume input, two jobs, finish, shift
    assert count >= arrays + 2 * 6 + 12 + 9 + 2 * 5


@pytest.mark.parametrize(
    ("victim", "harm"),
    [
        ("pairs.zarr/noisy/c/3/0/0/0/0", "lost"),
        ("members/001/weights.safetensors", "flipped"),
        ("ensemble/heldout.zarr/quantiles/c/5/0/0/0/0/0", "flipped"),
        ("volumes/wide/input.zarr/noisy/c/0/0/0", "cut"),
        ("volumes/wide/quantiles.zarr/embedding/c/0/1/2", "lost"),
        ("volumes/wide/quantiles.zarr/quantiles/c/0/0/0/1", "flipped"),
        ("volumes/wide.ome.zarr/0/c/0/0/0", "cut"),
        ("volumes/wide.ome.zarr/labels/tokens/1/c/0/0", "lost"),
        ("evaluation/tokens.csv", "flipped"),
        ("calibration/thresholds.json", "flipped"),
        ("members/000/graph.json", "flipped"),
        ("members/001/train.json", "lost"),
        ("volumes/wide/finish.json", "lost"),
        ("volumes/wide/jobs/1-of-2.json", "cut"),
        ("report/report.html", "lost"),
        ("report/figures/maps.png", "lost"),
        ("report/slices.npz", "flipped"),
        ("volumes/wide/tokens.csv", "flipped"),
    ],
)
def test_damage_is_found_and_the_file_named(changed, victim, harm, capsys):
    path = changed.results / victim
    content = bytearray(path.read_bytes())
    if harm == "lost":
        path.unlink()
    else:
        content[len(content) // 3] ^= 1
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    assert main(["verify", str(changed.results)]) == 1
    found, *advice = capsys.readouterr().out.splitlines()
    assert victim in found
    assert len(advice) == 4


def test_what_verify_advises_mends_the_damage_and_computes_one_shard_again(changed, capsys):
    before = arrays(changed.results)
    for victim in ("volumes/wide/quantiles.zarr/quantiles/c/0/0/0/1", "volumes/wide.ome.zarr/0/c/0/0/0", "ensemble/label.json"):
        (changed.results / victim).unlink()
    assert main(["verify", str(changed.results)]) == 1
    *_, remove, first, last = capsys.readouterr().out.splitlines()
    outputs = remove.split()[2:]
    assert {Path(path).name for path in outputs} in (
        {"1-of-2.json", "finish.json", "label.json"},
        {"2-of-2.json", "finish.json", "label.json"},
    )
    assert (first.split(), last.split()) == (["snakemake", *outputs, "..."], ["snakemake", "..."])
    for path in outputs:
        Path(path).unlink(missing_ok=True)
    changed.finish(*(str(Path(path).relative_to(changed.folder)) for path in outputs))
    changed.finish()
    assert main(["verify", str(changed.results)]) == 0
    after = arrays(changed.results)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    logs = [path.read_text() for path in changed.folder.glob("logs/tiny/infer/wide/*.log")]
    # of three shards each; the job without damage may not have run again
    assert any("3 of 6 shards of (32, 32), 2 of them finished before" in log for log in logs)


def test_a_deleted_store_is_made_again(changed):
    before = zarr.open_array(changed.results / "volumes/wide.ome.zarr/0", mode="r")[...]
    shutil.rmtree(changed.results / "volumes/wide.ome.zarr")
    assert changed.plan()["finish"] == 1
    changed.finish()
    np.testing.assert_array_equal(zarr.open_array(changed.results / "volumes/wide.ome.zarr/0", mode="r")[...], before)


def test_the_readme_opens_a_volume(finished, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(finished.folder)
    found: dict[str, Any] = {}
    exec(example.replace("blobs/volumes/large", "tiny/volumes/wide"), found)
    assert found["labels"] == [*(f"channel 0 {name}" for name in ("lower", "median", "upper", "width")), "novelty"]
    assert (found["lower"] <= found["median"]).all()
    assert found["tokens"].shape == (40, 88)


def test_a_volume_opens_in_xarray(finished):
    level = xr.open_zarr(finished.results / "volumes/wide.ome.zarr", consolidated=False, drop_variables=["1", "2"])["0"]
    assert level.dims == ("c", "y", "x")
    assert level.shape == (5, 40, 88)


def test_settings_on_the_command_line_are_numbers(finished):
    text = finished.finish("--dry-run", "--config", "ensemble={size: 3}", "training={steps: 6, batch: 2, patch: 24, flips: false}")
    assert text.count("\nrule train:") == 3
    assert '"training.flips": false' in text
