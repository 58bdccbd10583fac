import shutil
from pathlib import Path

import pytest

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
    provenance._tree.cache_clear()
    provenance._imports.cache_clear()
    provenance._code.cache_clear()


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
        replace('"""Tokens: the', '"""Another docstring: the'),
        replace('    """Number of the nearest token', '    """What is the number of the nearest token'),
        replace("    Affine map from", "    Another map from"),
        replace("size: int, seed: int)", "size: int,\n    seed: int,\n)"),
    ],
    ids=["comment", "docstring of a module", "of a function", "of a class", "formatting"],
)
def test_comments_docstrings_and_formatting_leave_every_fingerprint(package, edit):
    assert changed(package, "core/tokens.py", edit) == set()


def test_logic_changes_the_stages_that_import_it_and_no_others(package):
    stages = changed(package, "core/tokens.py", replace("np.argmax(nearness", "np.argmin(nearness"))
    assert {"tokenize", "embed", "predict", "infer", "finish"} <= stages
    assert not stages & {"calibrate", "evaluate", "ingest", "fetch", "report"}


def test_what_is_imported_by_an_import_counts_too(package):
    # run.train -> core.training -> core.network -> core.architecture -> core.graph
    stages = changed(package, "core/graph.py", replace("stride = 1", "stride = 2"))
    assert {"wire", "train", "predict", "infer", "plan", "check"} <= stages
    assert not stages & {"calibrate", "score", "ingest", "average"}


def test_a_shared_module_changes_all_that_share_it(package):
    stages = changed(package, "io/record.py", replace("indent=2", "indent=4"))
    assert {"tokenize", "calibrate", "train", "ingest", "finish"} <= stages


@pytest.mark.parametrize("name", ["config.py", "stages.py", "errors.py", "cli.py", "provenance.py"])
def test_modules_that_only_carry_settings_change_nothing(package, name):
    assert changed(package, name, lambda text: text + "\nADDED = 1\n") == set()


def test_a_new_module_that_is_imported_counts_with_what_it_holds(package):
    (package / "core" / "added.py").write_text("VALUE = 1\n")
    edit = replace("import numpy as np\n", "import numpy as np\nfrom behindthenoise.core.added import VALUE\n")
    assert "tokenize" in changed(package, "core/tokens.py", edit)
    assert "tokenize" in changed(package, "core/added.py", replace("1", "2"))


def test_an_import_inside_a_function_counts(package):
    (package / "core" / "added.py").write_text("VALUE = 1\n")
    edit = replace("    candidates =", "    import behindthenoise.core.added\n    candidates =")
    assert "tokenize" in changed(package, "core/tokens.py", edit)
    assert "tokenize" in changed(package, "core/added.py", replace("1", "2"))


def test_the_template_of_the_page_changes_what_is_drawn_alone(package):
    assert changed(package, "report/page.html.j2", lambda text: text + "\n<p>added</p>\n") == {"report", "sweep"}


def test_the_fingerprint_is_the_same_wherever_the_package_stands(package):
    copied = fingerprints()
    provenance.ROOT = PACKAGE
    assert fingerprints() == copied


def test_files_that_are_no_code_of_ours_do_not_count(package):
    before = fingerprints()
    (package / "core" / "unused.py").write_text("VALUE = 1\n")
    (package / "core" / "__pycache__").mkdir()
    assert fingerprints() == before
