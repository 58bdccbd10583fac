"""What the documents show is true."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from behindthenoise.config import Config, parse
from behindthenoise.stages import STAGES, module_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
SOURCE = ROOT / "src/behindthenoise"


def test_the_example_configuration_is_valid():
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert parse(yaml.safe_load(example), check_files=False).dataset == "my_sample"


def test_every_setting_that_the_readme_names_exists():
    known = {name: field.annotation for name, field in Config.model_fields.items()}
    named = set(re.findall(r"`([a-z]+)\.([a-z_]+)`", README))
    assert ("network", "depth") in named
    for section, key in named - {("snakemake", "yaml")}:
        kinds = get_args(known[section]) or (known[section],)  # of a section that may be left out
        assert any(key in getattr(kind, "model_fields", {}) for kind in kinds), f"{section}.{key}"


@pytest.mark.parametrize("document", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda path: path.name)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_every_module_is_on_the_map():
    for path in SOURCE.rglob("*.py"):
        if path.name.startswith("__"):
            continue
        name = path.stem if path.parent != SOURCE else path.name
        assert f"`{name}`" in ARCHITECTURE or path.stem in STAGES, path.relative_to(SOURCE)


def test_every_verb_has_a_rule_and_every_rule_a_verb():
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    # the check is the first line of each training
    assert set(re.findall(r"^rule (\w+):", rules, re.MULTILINE)) == set(STAGES) - {"check"}
    for stage in STAGES:
        assert f"-m behindthenoise {stage} " in rules
        assert (SOURCE / (module_of(stage).replace(".", "/") + ".py")).exists()


def test_every_rule_has_a_log_a_benchmark_an_environment_resources_and_a_specification():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for text in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            rule = text.split(":")[0]
            for part in ("log:", "benchmark:", "conda:", "threads:", f'**needs("{rule}"),', "spec=", "shell:"):
                assert part in text, f"{path.name}: {rule} has no {part}"
            for trap in ("touch(", "directory(", "run:", "script:"):
                assert trap not in text


def test_profiles_name_rules_that_exist():
    text = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):|^use rule \w+ as (\w+) with:", text, re.MULTILINE))
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    named = {*profile.get("set-resources", {}), *profile["groups"]}
    assert {"embed", "report"} <= named <= {name for pair in rules for name in pair}
    # what runs a network shares its GPU with no other rule
    assert networks_rules(text) == {"train", "predict", "infer"}
    assert not networks_rules(text) & set(profile["groups"])


def networks_rules(text):
    """Rules that ask for a GPU."""
    return set(re.findall(r"^rule (\w+):(?:(?!^rule ).)*?gpu=1", text, re.MULTILINE | re.DOTALL))


def test_what_is_not_worth_a_job_of_a_cluster_runs_beside_snakemake():
    text = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    parts = re.split(r"^(?:use rule \w+ as|rule) ", text, flags=re.MULTILINE)[1:]
    assert {re.match(r"\w+", part)[0] for part in parts if "    localrule: True\n" in part} == {
        "wire",
        "sweep_wire",
        "place",
        "plan",
    }


def test_every_rule_asks_for_memory_and_time_in_one_place_alone():
    text = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    asked = yaml.safe_load((ROOT / "workflow/resources.yaml").read_text())
    assert set(asked) == set(STAGES) - {"check"}
    # how much memory a network may use is said in the configuration
    assert {rule for rule, needs in asked.items() if "mem_mb" not in needs} == networks_rules(text)
    assert text.count("mem_mb=memory_mb(CONFIG.") == len(networks_rules(text))
    assert all(number >= 10 for needs in asked.values() for number in (needs["runtime"], needs.get("mem_mb", 1000)))
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert not profile.keys() & {"default-resources", "set-resources", "set-threads"}


def test_rules_ask_for_four_times_the_measured_memory_and_ten_times_the_time():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .*? \| (\d+) \| ", (ROOT / "docs/clusters.md").read_text(), re.MULTILINE)
    asked = yaml.safe_load((ROOT / "workflow/resources.yaml").read_text())
    # a sweep has not been measured with data of this size
    assert {rule for rule, _, _ in rows} == asked.keys() - {"sweep"}
    for rule, peak_mb, seconds in rows:
        assert asked[rule].get("mem_mb", float("inf")) >= 4 * int(peak_mb), rule
        assert asked[rule]["runtime"] * 60 >= 10 * int(seconds), rule


def test_no_rule_of_many_jobs_has_a_file_of_every_member_as_input():
    """Snakemake looks at every input of every job at each start; a thousand jobs times a hundred members take long."""
    found = set()
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for text in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            inputs, outputs = re.split(r"^    output:", text, flags=re.MULTILINE)
            if "{scatteritem}" in re.split(r"^    log:", outputs, flags=re.MULTILINE)[0]:
                found.add(text.split(":")[0])
                assert "of_members(" not in inputs
    assert found == {"score", "infer"}


def test_a_rule_that_reads_the_pairs_depends_on_what_is_in_them():
    """The split may change while weights stay bit for bit the same, and Snakemake compares small inputs by content."""
    found = 0
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for text in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, inputs = text.split(":")[0], re.split(r"^    output:", text, flags=re.MULTILINE)[0]
            if name != "ingest" and 'pairs=placed(f"{R}/pairs.zarr")' in text:
                found += 1
                assert 'f"{R}/pairs.json"' in inputs, name
    assert found >= 8
