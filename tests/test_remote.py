"""What stands at a URL is found with one look, and what is wrong with a URL is one line."""

import json
import re
import subprocess
import sys

import fsspec
import pytest

from behindthenoise import remote
from behindthenoise.config import parse
from behindthenoise.errors import ConfigError, RemoteError


def put(url, options, **files):
    system, path = fsspec.url_to_fs(url, **options)
    for name, content in files.items():
        system.pipe_file(f"{path}/{name.replace('__', '/').replace('_', '.')}", content)


def state(url, options):
    """What a later run of the workflow finds."""
    remote._found.cache_clear()
    fsspec.url_to_fs(url, **options)[0].invalidate_cache()
    return remote.found(url, options)


def config(path, **changes):
    source = {"path": path, **changes}
    return {"dataset": "some", "pairs": {"noisy": source, "clean": source}}


def test_a_file_is_found_with_its_size_and_a_stamp_that_changes_with_it(bucket):
    url, options = bucket
    put(url, options, a_tif=b"12345")
    (first,) = state(f"{url}/a.tif", options)
    assert (first.url, first.size) == (f"{url}/a.tif", 5)
    assert first == state(f"{url}/a.tif", options)[0]
    put(url, options, a_tif=b"54321")
    assert state(f"{url}/a.tif", options)[0].stamp != first.stamp


def test_a_zarr_store_is_as_its_metadata_are(bucket):
    url, options = bucket
    put(url, options, new_zarr__zarr_json=b"{}", old_zarr__sub__x=b"1")
    fsspec.url_to_fs(url, **options)[0].pipe_file(f"{fsspec.url_to_fs(url, **options)[1]}/old.zarr/.zgroup", b"{   }")
    assert [(file.url, file.size) for file in state(f"{url}/new.zarr", options)] == [(f"{url}/new.zarr", 2)]
    assert [(file.url, file.size) for file in state(f"{url}/old.zarr", options)] == [(f"{url}/old.zarr", 5)]


def test_a_pattern_finds_files_and_a_plain_name_is_none(bucket):
    url, options = bucket
    put(url, options, s__a1_tif=b"1", s__a2_tif=b"22", s__b_tif=b"333")
    assert [(file.url, file.size) for file in state(f"{url}/s/a*.tif", options)] == [(f"{url}/s/a1.tif", 1), (f"{url}/s/a2.tif", 2)]
    assert state(f"{url}/s/c.tif", options) == ()
    assert state(f"{url}/s/c*.tif", options) == ()


def test_the_network_is_asked_once(bucket):
    url, options = bucket
    put(url, options, a_tif=b"1")
    first = remote.found(f"{url}/a.tif", options)
    put(url, options, a_tif=b"22")
    assert remote.found(f"{url}/a.tif", options) == first


def test_a_missing_bucket_is_named(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    with pytest.raises(ConfigError, match=r"s3://nowhere/a\.zarr cannot be reached .*bucket does not exist"):
        parse(config("s3://nowhere/a.zarr", options={"endpoint_url": s3_server}))
    with pytest.raises(ConfigError, match=r"s3://nowhere/b\.zarr cannot be reached .*bucket does not exist"):
        parse(
            {
                "dataset": "some",
                "synthetic": {},
                "publish": {"field": {"path": "s3://nowhere/b.zarr", "options": {"endpoint_url": s3_server}}},
            }
        )


def test_credentials_that_are_missing_are_one_line(s3_server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(RemoteError, match=r"NoCredentialsError: Unable to locate credentials\); check .* the credentials$"):
        remote.found("s3://bucket/a.tif", {"endpoint_url": s3_server, "use_listings_cache": False})


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"s3://bucket/a\.tif cannot be reached without another package; install s3fs"):
        parse(config("s3://bucket/a.tif"))
    with pytest.raises(ConfigError, match="install s3fs"):
        parse({"dataset": "some", "synthetic": {}, "publish": {"field": "s3://bucket/field.ome.zarr"}})


def test_a_protocol_that_nobody_knows_is_named():
    with pytest.raises(ConfigError, match=r"x3://bucket/a\.tif cannot be reached \(ValueError: Protocol not known: x3\)"):
        parse(config("x3://bucket/a.tif"))


def test_what_does_not_exist_at_a_url_is_refused_like_a_file(bucket):
    url, options = bucket
    with pytest.raises(ConfigError, match=rf"pairs\.noisy\.path '{url}/none\.tif' does not exist"):
        parse(config(f"{url}/none.tif", options=options))


@pytest.mark.parametrize(
    "options",
    [
        {"key": "AKIA"},
        {"secret": "x"},
        {"client_kwargs": {"aws_secret_access_key": "x"}},
        {"sas_token": "x"},
        {"clients": [1, {"secret_key": "x"}]},
    ],
)
def test_a_secret_in_the_configuration_is_refused_without_repeating_it(options):
    with pytest.raises(ConfigError, match=r"is a secret, .*; put it into the environment") as caught:
        parse(config("s3://bucket/a.tif", options=options))
    assert "AKIA" not in str(caught.value)


def test_a_password_in_a_url_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="path holds a password") as caught:
        parse(config("ftp://me:hidden@host/a.tif"))
    assert "hidden" not in str(caught.value)


def test_signing_in_as_nobody_is_no_secret():
    for options in ({"anon": True}, {"token": "anon"}, {"profile": "lab"}):
        assert parse(config("s3://bucket/a.tif", options=options), check_files=False).pairs.noisy.options == options


def test_options_of_a_path_on_this_machine_are_refused():
    with pytest.raises(ConfigError, match=r"options \['anon'\] belong to a URL"):
        parse(config("a.tif", options={"anon": True}), check_files=False)


def test_a_file_url_is_a_path_on_this_machine(tmp_path):
    (tmp_path / "a.tif").touch()
    assert parse(config(f"file://{tmp_path}/a.tif")).pairs.noisy.path == f"{tmp_path}/a.tif"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3://b/A.TIF", ".tif"), ("https://h/a.tif?X-Id=3.4", ".tif"), ("data/a?.npy", ".npy"), ("a.ome.zarr", ".zarr")],
)
def test_the_ending_of_a_url_has_no_query(path, expected):
    assert remote.suffix(path) == expected


def test_without_a_url_fsspec_is_not_imported(tmp_path):
    (tmp_path / "a.tif").touch()
    content = config(str(tmp_path / "a.tif"))
    code = f"import sys; from behindthenoise.config import parse; parse({content!r}); print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr


def test_a_place_with_something_else_is_refused_when_the_configuration_is_read(bucket, tmp_path):
    url, options = bucket
    put(url, options, field_ome_zarr__zarr_json=b"{}")
    content = {"dataset": "some", "synthetic": {}, "publish": {"field": {"path": f"{url}/field.ome.zarr", "options": options}}}
    with pytest.raises(ConfigError, match=r"field\.ome\.zarr already holds something else \(zarr\.json\)"):
        parse(content)
    put(url, options, field_ome_zarr__behindthenoise__zarr_json=json.dumps({}).encode())
    assert parse(content).publish["field"].path == f"{url}/field.ome.zarr"


@pytest.mark.parametrize(
    ("publish", "message"),
    [
        ({"other": "b.zarr"}, r"publish names the volume 'other', which does not exist; there are field, large"),
        (
            {"field": "b.zarr", "large": "./c/../b.zarr/"},
            r"publish copies 'field' to '/.*/b\.zarr' and 'large' to '/.*/b\.zarr'; give each",
        ),
        (
            {"field": "b.zarr", "large": "b.zarr/c.zarr"},
            r"publish copies 'field' to '/.*/b\.zarr' and 'large' to '/.*/b\.zarr/c\.zarr'",
        ),
        ({"field": "s3://a/b.zarr", "large": "s3://a//b.zarr"}, r"publish copies 'field' to 's3://a/b\.zarr' and 'large' to"),
        ({"field": "s3://bucket"}, r"publish\.field.*string should match pattern"),
        ({"field": "s3://bucket/.zarr"}, r"publish\.field.*string should match pattern"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(publish, message):
    content = {"dataset": "some", "synthetic": {}, "volumes": {"large": {"synthetic": [64, 64]}}, "publish": publish}
    with pytest.raises(ConfigError) as caught:
        parse(content, check_files=False)
    assert re.search(message, str(caught.value))
