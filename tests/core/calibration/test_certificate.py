"""Each sentence of the certificate follows from what was done, and says no more."""

from dataclasses import replace

import pytest

from behindthenoise.config import CalibrationConfig
from behindthenoise.core.calibration.certificate import Basis, assumptions, statement, uneven, warnings

IMAGES = Basis(kind="image", edge=8, radius=0, blocks=None, units=12, fields=12, scans=1, one_field=False, groups=1, grouped_by=())
BLOCKS = replace(IMAGES, kind="block", edge=24, radius=8, blocks=40.0, units=40, fields=1)
ONE_FIELD = replace(BLOCKS, one_field=True)


def asked(**values):
    return CalibrationConfig(**values)


def text(config, basis):
    return " ".join([statement(config, basis), *assumptions(config, basis), *warnings(config, basis, [])])


def test_the_default_on_images_speaks_of_confidence_and_of_the_mean_over_new_images():
    assert statement(asked(), IMAGES) == (
        "With 90 % confidence in the 12 calibration images, at least 90 % of the pixels of a channel lie inside their interval, "
        "on average over new images. A single image, structure or pixel may be covered less often."
    )


def test_one_field_promises_nothing_about_another_specimen():
    found = statement(asked(), ONE_FIELD)
    assert "on average over more of the same material" in found
    assert "The promise is about this specimen: one field cannot show how another one differs." in found
    assert "units" not in found
    assert "3 fields cannot show" in statement(asked(), replace(ONE_FIELD, fields=3))


@pytest.mark.parametrize(
    ("guarantee", "expected"),
    [
        ("rcps", "With 95 % confidence in the 40 calibration blocks, at least 80 % of"),
        ("crc", "are expected inside their interval in new blocks, averaged also over the draw of the 40 calibration blocks"),
        ("tolerance", "In at least 70 % of new blocks, at least 80 % of the pixels"),
        ("pooled", "80 % of the pixels of a channel lie inside their interval on the calibration data. For new data nothing is"),
    ],
)
def test_each_guarantee_has_its_own_numbers(guarantee, expected):
    config = asked(guarantee=guarantee, coverage=0.8, failure=0.05, shortfall=0.3)
    assert expected in statement(config, BLOCKS)


@pytest.mark.parametrize("guarantee", ["crc", "tolerance", "pooled"])
def test_confidence_is_claimed_by_the_guarantees_that_have_it(guarantee):
    assert "confidence" not in text(asked(guarantee=guarantee), BLOCKS)
    assert "confidence" in text(asked(guarantee="rcps"), BLOCKS)


@pytest.mark.parametrize("guarantee", ["pac", "rcps", "crc", "tolerance", "pooled"])
def test_groups_are_named_and_say_whether_they_hold_at_once(guarantee):
    config, basis = asked(guarantee=guarantee), replace(IMAGES, groups=6, grouped_by=("intensity", "token"))
    assert "each group of voxels (by intensity and token)" in statement(config, basis)
    sentence = next(line for line in assumptions(config, basis) if line.startswith("Groups are found from predictions alone"))
    if guarantee in ("pac", "rcps"):
        assert "the probability to fail is shared among 6 of them, so that all hold at once" in sentence
    else:
        assert "the promise is for each by itself" in sentence
    assert not any(line.startswith("Groups") for line in assumptions(config, IMAGES))


def test_scans_that_share_a_clean_image_are_named_as_one_structure():
    found = assumptions(asked(), replace(ONE_FIELD, scans=10))
    assert any(line.startswith("The 10 scans of a field share one clean image") for line in found)
    assert not any("share one clean image" in line for line in assumptions(asked(), ONE_FIELD))


def test_what_is_estimated_is_called_an_estimate():
    assert any("How much images differ is estimated" in line for line in assumptions(asked(), IMAGES))
    assert any(
        "How much the misses of a field depend on each other is estimated" in line for line in assumptions(asked(), ONE_FIELD)
    )
    for guarantee in ("crc", "tolerance", "rcps"):
        assert not any("is estimated" in line for line in assumptions(asked(guarantee=guarantee), IMAGES))


def test_the_noise_of_the_clean_image_is_never_passed_over():
    for basis in (IMAGES, BLOCKS, ONE_FIELD):
        assert any("its own noise included" in line for line in assumptions(asked(), basis))


def test_blocks_are_called_neighbours():
    assert any(line.startswith("Blocks of 24 voxels are neighbours") for line in assumptions(asked(guarantee="crc"), BLOCKS))
    for basis in (IMAGES, ONE_FIELD):
        assert not any("neighbours" in line for line in assumptions(asked(), basis))


@pytest.mark.parametrize(("edge", "short"), [(23, True), (24, False)])
def test_blocks_shorter_than_three_radii_are_warned_of(edge, short):
    basis = replace(BLOCKS, edge=edge)
    found = warnings(asked(), basis, [])
    assert bool(found) == short
    if short:
        assert found == [
            "Blocks of 23 voxels are short: misses are correlated over 8 voxels, so neighbouring blocks depend on each other; "
            "blocks of 24 would not."
        ]
    # where blocks are not counted, their size does not matter
    assert warnings(asked(), replace(basis, one_field=True), []) == []
    assert warnings(asked(), replace(basis, kind="image"), []) == []


@pytest.mark.parametrize(("blocks", "few"), [(1.0, True), (4.9, True), (5.0, False)])
def test_a_field_of_few_correlation_lengths_is_warned_of(blocks, few):
    found = warnings(asked(), replace(ONE_FIELD, blocks=blocks), [])
    assert bool(found) == few
    if few:
        assert f"the calibration voxels are worth no more than {blocks:.2g} blocks of three correlation radii" in found[0]
    assert warnings(asked(), replace(ONE_FIELD, blocks=None), []) == []
    # where blocks are counted, their number is in the guarantee
    assert warnings(asked(), replace(BLOCKS, blocks=blocks), []) == []


def test_what_is_nearly_certain_is_not_called_certain():
    found = statement(asked(failure=1e-9, coverage=0.9999999), IMAGES)
    assert found.startswith("With 99.9999999 % confidence in the 12 calibration images, at least 99.99999 % of the pixels")
    assert "In at least 99.9999 % of new images" in statement(asked(guarantee="tolerance", shortfall=1e-6), IMAGES)


def test_units_of_uneven_size_are_called_what_they_are():
    assert uneven("image", 12, 3.21).startswith("The 12 images differ so much in size that they are worth 3.21 of one size")


def test_pooled_pixels_are_warned_of_and_units_that_were_flagged_are_kept():
    found = warnings(asked(guarantee="pooled"), IMAGES, ["unit 3 is unlike the others"])
    assert found[0] == "unit 3 is unlike the others"
    assert "promises nothing" in found[1]
    assert warnings(asked(), IMAGES, []) == []


def test_where_tokens_have_thresholds_nothing_that_they_were_fitted_on_shows_calibration_fields():
    beside = "Volumes that tokens were fitted on besides training data"
    assert any(line.startswith(beside) for line in assumptions(asked(), replace(IMAGES, groups=3, grouped_by=("token",))))
    assert not any(line.startswith(beside) for line in assumptions(asked(), replace(IMAGES, groups=3, grouped_by=("intensity",))))
