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


def test_no_flipped_bit_is_read_as_other_values(tmp_path):
    """Also in headers, where numpy may read fewer values than there are, and so never come to the check sum at their end."""
    path, values = tmp_path / "arrays.npz", np.arange(4000.0)
    write_npz(path, {"values": values})
    content = path.read_bytes()
    refused = 0
    for place in [*range(200), *range(len(content) - 140, len(content))]:
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = read_npz(path)
            except StoreError:
                refused += 1
                continue
            assert len(found) == 1
            np.testing.assert_array_equal(*found.values(), values)
    assert refused > 2000
