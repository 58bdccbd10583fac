import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from behindthenoise.report import figures, page
from behindthenoise.report.content import Certificate, Content, Slice

NAN = float("nan")
SENTENCE = "In 9 of 10 new blocks, at least 90 % of the pixels hold their clean value."


def waves(channels: int, rows: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([10 + np.sin(x / (5 + k)) * np.cos(y / 9) + y / rows for k in range(channels)]).astype(np.float32)


def plane(names: Sequence[str], rows: int, columns: int, *, paired: bool) -> Slice:
    clean = waves(len(names), rows, columns)
    noisy = clean + np.random.default_rng(1).normal(size=clean.shape).astype(np.float32)
    noisy[:, :4, :4] = np.nan
    tokens = (np.indices((rows, columns)).sum(axis=0) // 10 % 5).astype(np.uint8)
    role = np.repeat(np.array([1, 0, 2, 3], dtype=np.uint8), rows // 4)[:, None] * np.ones((1, columns), dtype=np.uint8)
    return Slice(
        name="a field",
        title="the field",
        channel_names=tuple(names),
        value_unit="counts",
        length_unit="micrometer",
        spacing=(2.0, 2.0),
        axes=("y", "x"),
        noisy=noisy,
        lower=clean - 0.3 - 0.1 * clean[::-1] / 10,
        median=clean,
        upper=clean + np.float32(0.3),
        clean=clean if paired else None,
        tokens=tokens if paired else None,
        role=role if paired else None,
    )


def content(field: Slice, volumes: tuple[Slice, ...] = ()) -> Content:
    names = field.channel_names
    certificate: Certificate = {
        "sentence": SENTENCE,
        "assumptions": ["blocks are exchangeable"],
        "channels": [
            {"channel": name, "units": 20, "pixels": 20480, "largest_unit": 1024, "rank": 18600, "threshold": -0.01234}
            for name in names
        ],
    }
    return Content(
        dataset="blobs",
        version="0.1.0",
        created="2025-05-13",
        facts={"members": "20", "home": "https://example.org/where"},
        certificate=certificate,
        coverage=0.9,
        channels=[
            {
                "channel": name,
                "coverage": 0.9012 + 0.011 * index,
                "coverage_low": 0.89,
                "coverage_high": 0.93,
                "pixels": 1234567,
                "units": 12,
                "width": 0.6,
                "noisy_width": 2.79,
                "width_reduction": 4.65,
                "correlation_noisy": 0.7,
                "correlation": 0.981,
                "psnr_noisy": 18.5,
                "psnr": NAN,
            }
            for index, name in enumerate(names)
        ],
        intensity=[
            {
                "channel": name,
                "bin": k,
                "from": k / 10,
                "to": (k + 1) / 10,
                "coverage": 0.88 + k / 200,
                "pixels": 99,
                "width": 0.6,
            }
            for name in names
            for k in range(10)
        ],
        units=[
            {"channel": name, "unit": f"block {unit}", "coverage": 0.85 + unit / 100, "pixels": 1024}
            for name in names
            for unit in range(9)
        ],
        ensemble=[
            {"members": k, "channel": name, "correlation": 0.981 - 0.005 / k, "width": 0.5 + 0.2 / k, "coverage": 0.8}
            for name in names
            for k in range(1, 21)
        ],
        tokens=[
            {"token": k, "share": 0.25, "voxels": 1024} | {f"{key}_{name}": 1.5 * k for name in names for key in ("mean", "width")}
            for k in range(1, 5)
        ],
        field=field,
        volumes=volumes,
        config_text="dataset: blobs\n",
    )


ONE = content(plane(["intensity"], 64, 64, paired=True))
THREE = content(
    plane(["Si", "Al", "Fe"], 200, 150, paired=False),
    volumes=(replace(plane(["Si", "Al", "Fe"], 64, 96, paired=True), name="large/map"),),
)


# Figures take seconds: where they do not matter, most are left out.
QUICK = replace(ONE, intensity=[], units=[], ensemble=[])


@pytest.fixture(scope="module", params=[ONE, THREE], ids=["one paired channel", "three channels without clean"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Content, Path]:
    return request.param, page.write(request.param, tmp_path_factory.mktemp("report"))


class Tags(HTMLParser):
    """Every tag's name and attributes, and all text outside style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_the_page_needs_no_other_file_and_no_network(report: tuple[Content, Path]) -> None:
    text = report[1].read_text(encoding="utf-8")
    parsed = Tags(text)
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert not parsed.open
    assert images
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|url\(|@import""", text)


def test_every_figure_is_on_the_page_and_in_the_folder_and_shows_something(report: tuple[Content, Path]) -> None:
    pictures = sorted(report[1].parent.glob("figures/*.png"))
    images = [attributes for tag, attributes in Tags(report[1].read_text(encoding="utf-8")).tags if tag == "img"]
    assert len(pictures) == len(images) >= 6
    for path in pictures:
        picture = imread(path)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.02, path.name
        # Nothing is cut off: the outermost pixels are paper.
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert edge[:, :3].min() > 0.9, path.name


def test_line_plots_are_stored_as_vectors_too(report: tuple[Content, Path]) -> None:
    drawn = {path.stem for path in report[1].parent.glob("figures/*.svg") if ElementTree.parse(path).getroot() is not None}
    assert drawn == {"line_cut", "coverage_by_channel", "coverage_by_intensity", "unit_coverage", "ensemble_curves"}


def test_the_page_tells_the_promise_and_each_channels_coverage(report: tuple[Content, Path]) -> None:
    told, path = report
    text = Tags(path.read_text(encoding="utf-8")).text
    assert text.index(SENTENCE) < text.index("The field")
    cards = text[: text.index("The field")]
    for name, coverage in zip(told.field.channel_names, ["90.1 %", "91.2 %", "92.3 %"], strict=False):
        assert coverage in cards[cards.index(name) :]
    assert "4.65\N{MULTIPLICATION SIGN} narrower" in cards
    assert "blocks are exchangeable" in text


def test_a_number_that_does_not_exist_reads_as_not_available(report: tuple[Content, Path]) -> None:
    text = Tags(report[1].read_text(encoding="utf-8")).text
    assert "18.50 → n/a" in text
    assert not re.search(r"\bnan\b", text, flags=re.IGNORECASE)


def test_a_missed_promise_is_said_at_the_top(tmp_path: Path) -> None:
    rows = [{**row, "coverage": 0.85, "coverage_low": 0.83, "coverage_high": 0.87} for row in QUICK.channels]
    kept, missed = (
        Tags(page.write(shown, tmp_path).read_text(encoding="utf-8")).text for shown in (QUICK, replace(QUICK, channels=rows))
    )
    assert "the promise was missed" not in kept
    assert "the promise was missed" in missed[: missed.index("The field")]


def test_names_with_special_characters_are_shown_as_they_are(tmp_path: Path) -> None:
    name = r"<b>Si</b> & $\nosuch$"
    field = plane([name, "$x"], 64, 64, paired=True)
    shown = replace(content(replace(field, title="<script>alert(1)</script>")), ensemble=[])
    text = page.write(replace(shown, config_text="a: </pre><img src=x>"), tmp_path).read_text(encoding="utf-8")
    parsed = Tags(text)
    assert "<b>Si" not in text
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert name in parsed.text
    assert "</pre><img src=x>" in parsed.text


def test_the_same_content_gives_the_same_bytes(report: tuple[Content, Path], tmp_path: Path) -> None:
    told, first = report
    second = page.write(told, tmp_path)
    assert first.read_bytes() == second.read_bytes()
    for path in first.parent.glob("figures/*"):
        assert path.read_bytes() == (second.parent / "figures" / path.name).read_bytes(), path.name


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    bare = replace(THREE, channels=[], intensity=[], units=[], ensemble=[], tokens=[], volumes=())
    text = Tags(page.write(bare, tmp_path).read_text(encoding="utf-8")).text
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"maps", "line_cut"}
    assert "Tokens" not in text
    assert "Coverage:" not in text


def test_the_line_cut_takes_the_row_with_most_structure_among_test_rows() -> None:
    field = plane(["a", "b"], 64, 64, paired=True)
    median = np.ones_like(field.median)
    median[:, 5] = 100 * np.sin(np.arange(64))
    median[:, 60] = np.sin(np.arange(64))
    cut = replace(field, median=median)
    assert figures.structured_cut(cut)[0] == 60
    assert figures.structured_cut(replace(cut, role=None))[0] == 5


def test_the_line_cut_finds_structure_at_the_far_end_of_a_wide_field() -> None:
    wide = plane(["a"], 8, 2 * figures.CUT_LIMIT + 11, paired=False)
    median = np.ones_like(wide.median)
    median[0, 3, -11:] = np.arange(11)
    row, columns = figures.structured_cut(replace(wide, median=median))
    assert row == 3
    assert columns.stop == wide.median.shape[-1]
    assert columns.stop - columns.start == figures.CUT_LIMIT


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "n/a"),
        (float("inf"), "∞"),
        (float("-inf"), "-∞"),
        (0.98104, "0.9810"),
        (1234.5, "1234"),
        (-0.0123456, "-0.01235"),
        (2.5e-6, "2.500e-06"),
        (1234567, "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        ("block 7", "block 7"),
    ],
)
def test_numbers_read_with_four_digits(value: float | int | str, text: str) -> None:
    assert page.number(value) == text


def test_percentages_read_with_one_digit_after_the_point() -> None:
    assert [page.percent(value) for value in (0.8995, 1, NAN)] == ["90.0 %", "100.0 %", "n/a"]


def test_the_first_forty_tokens_have_colours_of_their_own_and_none_is_white() -> None:
    colours = [figures.token_colour(token) for token in range(1, 41)]
    assert len(set(colours)) == 40
    assert "#ffffff" not in colours
    assert figures.token_colour(len(figures.TOKEN_COLOURS) + 1) == colours[0]


def test_a_slice_without_tokens_or_roles_is_refused() -> None:
    with pytest.raises(ValueError, match="'a field' has no tokens"):
        figures.tokens(THREE.field)
    with pytest.raises(ValueError, match="'a field' has no roles"):
        figures.split_map(THREE.field)
