import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from behindthenoise import provenance
from behindthenoise.stages import STAGES, module_of

PACKAGE = Path(provenance.__file__).parent


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be edited; fingerprints are those of the copy."""
    copy = tmp_path / "behindthenoise"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", copy)
    forget()
    yield copy
    monkeypatch.undo()
    forget()


def forget():
    """A process reads each module once; here it is read again after an edit."""
    provenance.fingerprint.cache_clear()
    provenance._facts.cache_clear()
    provenance._remembered.cache_clear()
    provenance._definitions.cache_clear()


def fingerprints():
    forget()
    return {stage: provenance.fingerprint(module_of(stage)) for stage in STAGES}


def changed(package, name, edit):
    """Stages whose fingerprint changes with an edit of a file."""
    before = fingerprints()
    text = (package / name).read_text()
    edited = edit(text)
    assert edited != text, "the edit must find what it replaces"
    (package / name).write_text(edited)
    after = fingerprints()
    return {stage for stage in STAGES if before[stage] != after[stage]}


def replace(old, new):
    return lambda text: text.replace(old, new, 1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "# a comment\n" + text.replace("\n    ", "\n    # another\n    ", 1),
        replace('"""Tokens: a', '"""Another docstring: a'),
        replace('    """Number of the nearest finest', '    """What is the number of the nearest finest'),
        replace("    Tokens at every level", "    Others at every level"),
        replace("np.ones(count, int), levels, np.ones(count))", "np.ones(count, int),\n            levels, np.ones(count))"),
    ],
    ids=["comment", "docstring of a module", "of a function", "of a class", "formatting"],
)
def test_comments_docstrings_and_formatting_leave_every_fingerprint(package, edit):
    assert changed(package, "core/tokens.py", edit) == set()


def test_logic_changes_the_stages_that_import_it_and_no_others(package):
    stages = changed(package, "core/tokens.py", replace("nearness.max(", "nearness.min("))
    assert {"tokenize", "label", "survey", "finish"} <= stages
    assert not stages & {"calibrate", "evaluate", "ingest", "fetch", "report"}


@pytest.mark.parametrize(
    ("name", "old", "new", "networks"),
    [
        ("core/tokens.py", "nearness.max(", "nearness.min(", set()),
        ("core/clustering.py", "STEPS = 4", "STEPS = 5", set()),
        ("run/token_models.py", '"count": model.count', '"number": model.count', set()),
        ("core/projection.py", "DEAD = 1e-6", "DEAD = 1e-5", set()),
        ("core/sampling.py", "CROWD, REACH = 32, 4", "CROWD, REACH = 16, 4", {"predict"}),
        ("core/embedding.py", "STORED = np.float16", "STORED = np.float32", {"predict", "infer"}),
    ],
)
def test_only_what_networks_need_of_the_embedding_runs_them_again(package, name, old, new, networks):
    assert changed(package, name, replace(old, new)) & {"train", "predict", "infer"} == networks


@pytest.mark.parametrize("name", ["core/tokens.py", "core/clustering.py"])
def test_another_tree_of_tokens_leaves_the_projection(package, name):
    """Else an edit would fit it again, and whatever depends on it would run."""
    assert not changed(package, name, lambda text: text + "\nADDED = 1\n") & {"embed", "plan", "average"}


def test_what_is_imported_by_an_import_counts_too(package):
    # run.train -> core.training -> core.network -> core.architecture -> core.graph
    stages = changed(package, "core/graph.py", replace("stride = 1", "stride = 2"))
    assert {"wire", "train", "predict", "infer", "plan", "check"} <= stages
    assert not stages & {"calibrate", "score", "ingest", "average"}


def test_a_shared_module_changes_all_that_share_it(package):
    stages = changed(package, "io/record.py", replace("int | None = 2", "int | None = 4"))
    assert {"tokenize", "calibrate", "train", "ingest", "finish"} <= stages


@pytest.mark.parametrize("name", ["config/__init__.py", "config/data.py", "stages.py", "errors.py", "cli.py", "provenance.py"])
def test_modules_that_only_carry_settings_change_nothing(package, name):
    assert changed(package, name, lambda text: text + "\nADDED = 1\n") == set()


def test_what_the_config_computes_counts_where_it_is_used(package):
    assert changed(
        package,
        "config/tokens.py",
        replace("    def finest_of(self, voxels: int)", "    def finest_of(self, voxels: int, more: int = 0)"),
    ) == {stage for stage in STAGES if "config.TokensConfig" in imports_of(stage) or "config.Config" in imports_of(stage)}
    assert changed(package, "config/data.py", replace('description="Fast scans of each image."', 'description="Scans."')) == set()


def test_a_constant_of_the_config_counts_where_it_is_used(package):
    stages = changed(
        package,
        "config/section.py",
        replace('SPACE_AXES: tuple[Space, ...] = ("z", "y", "x")', 'SPACE_AXES: tuple[Space, ...] = ("x", "y", "z")'),
    )
    assert {stage for stage in STAGES if "config.SPACE_AXES" in imports_of(stage)} <= stages
    assert "ingest" in stages and "report" not in stages


def test_no_two_modules_of_the_config_define_one_name():
    """What is imported from the config is looked up by its name alone."""
    names = [name for path in (PACKAGE / "config").glob("*.py") for name in provenance._defined_in(path.read_bytes())]
    names = [name for name in names if name != "__all__"]
    assert len(set(names)) == len(names) > 20


def imports_of(stage):
    return {name for module in provenance._closure(module_of(stage)) for name in provenance._facts(module).imports}


def test_a_new_module_that_is_imported_counts_with_what_it_holds(package):
    (package / "core" / "added.py").write_text("VALUE = 1\n")
    edit = replace("import numpy as np\n", "import numpy as np\nfrom behindthenoise.core.added import VALUE\n")
    assert "tokenize" in changed(package, "core/tokens.py", edit)
    assert "tokenize" in changed(package, "core/added.py", replace("1", "2"))


def test_an_import_inside_a_function_counts(package):
    (package / "core" / "added.py").write_text("VALUE = 1\n")
    edit = replace("        belongs =", "        import behindthenoise.core.added\n        belongs =")
    assert "tokenize" in changed(package, "core/tokens.py", edit)
    assert "tokenize" in changed(package, "core/added.py", replace("1", "2"))


def test_the_template_of_the_page_changes_what_is_drawn_alone(package):
    assert changed(package, "report/page.html.j2", lambda text: text + "\n<p>added</p>\n") == {"report", "sweep", "overlay"}


def test_the_fingerprint_is_the_same_wherever_the_package_stands(package):
    copied = fingerprints()
    provenance.ROOT = PACKAGE
    assert fingerprints() == copied


def test_files_that_are_no_code_of_ours_do_not_count(package):
    before = fingerprints()
    (package / "core" / "unused.py").write_text("VALUE = 1\n")
    (package / "core" / "__pycache__").mkdir()
    assert fingerprints() == before


@pytest.fixture
def remembering(package, monkeypatch):
    """A copy of the package whose analysis is kept on the disk."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return package


def test_what_was_found_before_is_not_found_again(remembering, monkeypatch):
    before = fingerprints()
    with monkeypatch.context() as broken:
        broken.setattr(provenance, "_analysed", None)
        assert fingerprints() == before
        (remembering / "core/tokens.py").write_text("EDITED = 1\n")
        with pytest.raises(TypeError, match="not callable"):
            fingerprints()
    assert fingerprints() != before


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a": 1}', '{"a": [1, 2, 3]}', "\0"], ids=["empty", "list", "number", "three", "zero"]
)
def test_a_damaged_memory_costs_time_alone(remembering, text):
    before = fingerprints()
    assert provenance._memory().exists() and provenance._memory().is_relative_to(remembering)
    provenance._memory().write_text(text)
    assert fingerprints() == before


def test_nothing_is_kept_where_python_may_not(package, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    fingerprints()
    assert not provenance._memory().exists()


def test_a_memory_that_has_grown_large_is_begun_anew(remembering, monkeypatch):
    fingerprints()
    monkeypatch.setattr(provenance, "MOST_REMEMBERED", 10)
    before = provenance._memory().stat().st_size
    (remembering / "core/tokens.py").write_text("EDITED = 1\n")
    fingerprints()
    assert provenance._memory().stat().st_size <= before


def test_imports_and_docstrings_are_found_inside_of_any_statement():
    openings = ("def f():", "try:\n    pass\nexcept E:", "match y:\n    case 1:", "if y:\n    pass\nelse:", "class C:", "with y:")
    code = "x"
    for opening in openings:
        *before, last = opening.split("\n")
        lines = ["'words'", "from behindthenoise.core import tiling", *code.split("\n")]
        indent = " " * (len(last) - len(last.lstrip()) + 4)
        code = "\n".join([*before, last, *(indent + line for line in lines)])
    found = provenance._analysed(code.encode())
    assert found.imports == ["core.tiling", "core"] * len(openings)
    for index in range(len(openings)):
        first, *parts = code.split("'words'")
        other = first + "".join(("'other'" if place == index else "'words'") + part for place, part in enumerate(parts))
        # outermost is the last opening; words alone in a branch are a statement, and no docstring
        documents = openings[-1 - index].startswith(("def", "class"))
        assert (provenance._analysed(other.encode()).code == found.code) == documents


def test_a_glance_tells_files_from_others_of_the_same_size_and_time(tmp_path):
    names = [str(tmp_path / f"{number}.raw") for number in range(3)]

    def written(values):
        for name, value in zip(names, values, strict=True):
            Path(name).write_bytes(bytes([value]) * 300_000)
        return provenance.glance(names)

    first = written([1, 2, 3])
    assert first.startswith("3 files, 900000 bytes, ")
    assert written([1, 2, 3]) == first
    assert written([1, 2, 4]) != first
    assert provenance.glance(names[:2]) != first
    assert provenance.glance([]).startswith("0 files, 0 bytes, ")


@pytest.mark.parametrize("size", [1, 4096, 4097, 250_000])
def test_a_glance_sees_every_byte_of_a_small_file(tmp_path, size):
    path = tmp_path / "small.npy"
    path.write_bytes(bytes(size))
    before = provenance.glance([str(path)])
    for place in {0, size // 3, size // 2, size - 1}:
        path.write_bytes(bytes(place) + b"x" + bytes(size - place - 1))
        assert provenance.glance([str(path)]) != before


@pytest.mark.parametrize("version", [2, 3])
def test_other_names_of_the_channels_of_a_zarr_array_are_seen(tmp_path, version):
    """They stand beside the array, in a coordinate of its own name."""
    path = str(tmp_path / "scan.zarr")
    maps = xr.DataArray(np.zeros((2, 4, 4)), dims=("element", "y", "x"), coords={"element": ["Fe", "Mg"]}, name="maps")
    maps.to_zarr(path, zarr_format=version, consolidated=False)
    before, of_all = provenance.glance_at_folder(path, "maps"), provenance.glance_at_folder(path, None)
    assert provenance.glance_at_folder(f"{path}/", "maps/") == before
    xr.Dataset(coords={"element": ["Mg", "Fe"]}).to_zarr(path, mode="a", zarr_format=version, consolidated=False)
    assert provenance.glance_at_folder(path, "maps") != before
    assert provenance.glance_at_folder(path, None) != of_all


@pytest.mark.parametrize("name", ["zarr.json", ".zattrs"])
@pytest.mark.parametrize("inside", ["", "sample", "sample/img"])
def test_what_the_groups_of_a_zarr_array_say_is_seen(tmp_path, inside, name):
    """OME-Zarr says there how large voxels are."""
    path = tmp_path / "scan.zarr"
    zarr.open_group(path, mode="w").create_array("sample/img/1", data=np.zeros((4, 4)))
    (path / inside / name).write_text("{}")
    before = provenance.glance_at_folder(str(path), "sample/img/1")
    (path / inside / name).write_text('{"scale": 2}')
    assert provenance.glance_at_folder(str(path), "sample/img/1") != before


def test_of_a_zarr_store_what_stands_beside_an_array_does_not_count(tmp_path):
    path = tmp_path / "scan.zarr"
    for name in ("maps", "others"):
        xr.DataArray(np.zeros((4, 4)), dims=("y", "x"), name=name).to_zarr(path, mode="a", consolidated=False)
    before = provenance.glance_at_folder(str(path), "maps")
    (path / "others/c/0/0").write_bytes(b"changed")
    assert provenance.glance_at_folder(str(path), "maps") == before
    (path / "maps/zarr.json").touch()
    assert provenance.glance_at_folder(str(path), "maps") != before
