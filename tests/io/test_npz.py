import numpy as np
import pytest

from behindthenoise.errors import StoreError
from behindthenoise.io.npz import read_npz, write_npz


def test_what_is_written_is_read(tmp_path):
    arrays = {"a/b": np.arange(6).reshape(2, 3), "words": np.array("text"), "none": np.zeros(0, "f4")}
    write_npz(tmp_path / "new/arrays.npz", arrays)
    found = read_npz(tmp_path / "new/arrays.npz")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


@pytest.mark.parametrize("harm", ["lost", "empty", "cut", "flipped", "text", "objects"])
def test_a_damaged_file_is_named(tmp_path, harm):
    path = tmp_path / "arrays.npz"
    write_npz(path, {"values": np.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    made = {"lost": b"", "empty": b"", "cut": content[:4000], "flipped": content, "text": b"no array"}
    path.unlink()
    if harm == "objects":
        np.savez(path, values=np.array([{}], dtype=object))
    elif harm != "lost":
        path.write_bytes(made[harm])
    with pytest.raises(StoreError, match=r"arrays\.npz cannot be read .*; delete it and run the workflow again"):
        read_npz(path)
