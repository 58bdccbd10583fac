from behindthenoise.run import shares


def test_manifests_of_another_number_of_shares_are_forgotten_and_no_others(tmp_path):
    for name in ("1-of-2.json", "2-of-2.json", "1-of-3.json", "3-of-3.run.json", "1-of-30.json", "notes-of-3.json", "1-of-3.txt"):
        (tmp_path / name).touch()
    shares.forget_others(tmp_path / "1-of-2.json", shares.parse("1-of-2"))
    assert {path.name for path in tmp_path.iterdir()} == {"1-of-2.json", "2-of-2.json", "notes-of-3.json", "1-of-3.txt"}
