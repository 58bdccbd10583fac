import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from behindthenoise.io.checkpoint import VERSION, read_checkpoint, write_checkpoint

TENSORS = {"network.weight": torch.arange(12.0).view(3, 4), "step": torch.tensor(7.0)}
FACTS = {"step": 3, "best_loss": 0.1, "losses": [0.1, 2 / 3], "history": [{"step": 1, "loss": 1e-30}]}
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def written(folder, key="key"):
    path = folder / "checkpoint.safetensors"
    write_checkpoint(path, key, TENSORS, FACTS)
    return path


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, max_side=4), elements=st.floats(width=32)),
    st.dictionaries(st.text(), plain, max_size=4),
    st.text(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_kept_is_found_to_the_bit(tmp_path, values, facts, key):
    path = tmp_path / "some" / "checkpoint.safetensors"
    write_checkpoint(path, key, {"values": torch.from_numpy(values)}, facts)
    found, found_facts = read_checkpoint(path, key)
    assert found["values"].numpy().tobytes() == values.tobytes()
    assert found["values"].shape == values.shape
    assert found_facts == facts
    assert names(path.parent) == [path.name]


def test_a_tensor_is_found_whatever_its_layout_in_memory(tmp_path):
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    kept = {"last": values.contiguous(memory_format=torch.channels_last), "turned": values.transpose(1, 3), "part": values[:, 1]}
    write_checkpoint(tmp_path / "a", "key", kept, {})
    found, _ = read_checkpoint(tmp_path / "a", "key")
    assert all(torch.equal(found[name], tensor) for name, tensor in kept.items())


def test_infinity_is_kept(tmp_path):
    write_checkpoint(tmp_path / "a", "key", TENSORS, {"best_loss": float("inf")})
    assert read_checkpoint(tmp_path / "a", "key")[1] == {"best_loss": float("inf")}


def test_the_last_one_that_was_written_is_found(tmp_path):
    path = written(tmp_path)
    write_checkpoint(path, "key", TENSORS, {"step": 4})
    assert read_checkpoint(path, "key")[1] == {"step": 4}


def test_other_work_is_not_found(tmp_path):
    path = written(tmp_path)
    assert read_checkpoint(path, "another") is None
    assert read_checkpoint(path, "") is None
    assert read_checkpoint(path, "key") is not None


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"version": "0", "key": "key", "facts": "{}"},
        {"key": "key", "facts": "{}"},
        {"version": VERSION, "key": "key"},
        {"version": VERSION, "key": "key", "facts": "{"},
    ],
    ids=["none", "empty", "another version", "no version", "no facts", "broken facts"],
)
def test_a_file_of_another_form_is_not_found(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "a", metadata=metadata)
    assert read_checkpoint(tmp_path / "a", "key") is None


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert read_checkpoint(tmp_path / "absent", "key") is None
    assert read_checkpoint(tmp_path, "key") is None


def test_a_file_that_is_cut_off_anywhere_is_not_found(tmp_path):
    path = written(tmp_path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert read_checkpoint(path, "key") is None
    path.write_bytes(content)
    assert read_checkpoint(path, "key") is not None


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_anything_is_not_found(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert read_checkpoint(tmp_path / "a", "key") is None


def test_a_writer_that_was_killed_leaves_the_last_one(tmp_path):
    path = written(tmp_path)
    (tmp_path / "checkpoint.safetensors.partial").write_bytes(path.read_bytes()[:50])
    assert read_checkpoint(path, "key")[1] == FACTS
    write_checkpoint(path, "key", TENSORS, {"step": 4})
    assert names(tmp_path) == [path.name]


def test_what_cannot_be_written_leaves_the_last_one(tmp_path):
    path = written(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_checkpoint(path, "key", TENSORS, {"step": object()})
    assert read_checkpoint(path, "key")[1] == FACTS


def test_the_facts_can_be_read_without_this_program(tmp_path):
    content = written(tmp_path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"]["facts"]) == FACTS
