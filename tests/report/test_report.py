import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from behindthenoise.core.palette import colour
from behindthenoise.report import cells, figures, notices, page
from behindthenoise.report.content import Certificate, Check, Content, Finding, RegionList, Slice

NAN = float("nan")
COLOURS = [colour(place) for place in (3, 1, 0, 2, *range(4, 40))]
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


def certificate(names: Sequence[str], tokens: int, sides: Sequence[str]) -> Certificate:
    places = [
        {"channel": name, "groups": f"token {token}", "side": side}
        for name in names
        for token in range(1, tokens + 1)
        for side in sides
    ]
    return {
        "sentence": SENTENCE,
        "assumptions": ["blocks are exchangeable"],
        "checked": ["roles are apart"],
        "warnings": [],
        "merged": [],
        "guarantee": "pac",
        "grouped_by": ["token"],
        "threshold_unit": "counts",
        "thresholds": [
            {
                **place,
                "threshold": -0.01234,
                "units": 20,
                "pixels": 20480,
                "effective_samples": 939.785,
                "blocks": 18.25,
                "rank": 18600,
            }
            for place in places
        ],
        "alternatives": [
            {**place, "pac": -0.01234, "crc": 0.5678, "tolerance": 0.1, "rcps": NAN, "pooled": -0.02} for place in places
        ],
    }


def judged(index: int, coverage: float) -> dict[str, float]:
    """What every table of groups has."""
    bar = min(0.01 + 0.002 * index, 1 - coverage)
    ends = {"coverage_low": coverage - bar, "coverage_high": coverage + bar}
    return {"coverage": coverage, **ends, "pixels": 9900 + index, "units": 12, "width": 0.5 + 0.03 * index}


def tenths(names: Sequence[str], rows: Callable[[int], dict[str, float]]) -> list[dict[str, float | str]]:
    return [{"channel": name, "bin": k, "from": k / 10, "to": (k + 1) / 10, **rows(k)} for name in names for k in range(10)]


def finding(name: str, *, flagged: bool) -> Finding:
    return {"name": name, "p_value": 0.001, "effect": 0.2, "sentence": f"the {name} was looked at", "flagged": flagged}


REGIONS = {
    "asked": {"channel": "intensity", "level": 0.1, "smallest": 9},
    "words": "intensity above 60 counts",
    "regions": 0,
    "marked": 0,
    "listed": 0,
    "voxels": 64,
    "promise": "Of the marked area at most 10 % is false.",
    "plane": {
        "axes": ["y", "x"],
        "origin": [0.0, 0.0],
        "spacing": [1.0, 1.0],
        "unit": "pixel",
        "value_unit": "counts",
        "where": [],
    },
}


def content(field: Slice, volumes: tuple[Slice, ...] = (), *, tokens: int = 3, sides: Sequence[str] = ("both",)) -> Content:
    names = field.channel_names
    return Content(
        dataset="blobs",
        version="0.1.0",
        created="2025-05-13",
        facts={"members": "20", "home": "https://example.org/where"},
        certificate=certificate(names, tokens, sides),
        coverage=0.9,
        channels=[
            {
                "channel": name,
                "coverage": 0.9012 + 0.011 * index,
                "coverage_low": 0.89,
                "coverage_high": 0.93,
                "pixels": 1234567,
                "units": 12,
                "unit_least": 0.8123,
                "unit_five_percent": 0.8345,
                "unit_median": 0.9123,
                "missed_below": 0.0413,
                "missed_above": 0.0575,
                "slab_coverage": 0.7654,
                "gap_tokens": 0.0123,
                "gap_intensity": 0.0234,
                "width": 0.6,
                "width_median": 0.57,
                "noisy_width": 2.79,
                "noisy_coverage": 0.9056,
                "width_reduction": 4.65,
                "gaussian_reduction": 0.7777,
                "interval_score": 0.789,
                "weighted_interval_score": 0.1234,
                "crps": 0.1222,
                "ause": 0.2345,
                "width_error_correlation": 0.4321,
                "correlation_noisy": 0.7,
                "correlation": 0.981,
                "psnr_noisy": 18.5,
                "psnr": NAN,
            }
            for index, name in enumerate(names)
        ],
        token_coverage=[
            {"channel": name, "token": token, **judged(token, 0.93 - 0.02 * (token % 3))}
            for name in names
            for token in range(1, tokens + 1)
        ],
        intensity=tenths(names, lambda k: judged(k, 0.88 + k / 200)),
        widths=tenths(names, lambda k: judged(k, 0.86 + k / 130)),
        units=[
            {"channel": name, "unit": f"block {unit}", "coverage": 0.85 + unit / 100, "pixels": 1024}
            for name in names
            for unit in range(9)
        ],
        reliability=[{"channel": name, "level": k / 100, **judged(1, (k / 100) ** 0.9)} for name in names for k in range(1, 99)],
        pit=[{"channel": name, "from": k / 20, "to": (k + 1) / 20, "share": 0.03 + k / 475} for name in names for k in range(20)],
        reference=[],
        ensemble=[
            {"members": k, "channel": name, "correlation": 0.981 - 0.005 / k, "width": 0.5 + 0.2 / k, "coverage": 0.8}
            for name in names
            for k in range(1, 21)
        ],
        tokens=[
            {
                "token": k,
                "share": 1 / tokens,
                "voxels": 1024,
                "stability": 0.9 - 0.1 * k,
                "verdict": "found again",
                "novelty": 0.5,
                "neighbour": 1,
                "neighbour_share": 0.7,
            }
            | {f"{key}_{name}": 1.5 * k for name in names for key in ("mean", "spread", "width")}
            for k in range(1, tokens + 1)
        ],
        token_colours=COLOURS,
        stability=[
            {
                "tokens": k,
                "memory": 1 / k,
                "agreement_of_seeds": 1 - 0.05 * k,
                "agreement_of_halves": 0.9 - 0.1 * k,
                "agreed_on": "yes",
            }
            for k in range(2, 9)
        ],
        field=field,
        volumes=volumes,
        checks=[],
        config_text="dataset: blobs\n",
    )


REFERENCE = tenths(
    ["intensity"],
    lambda k: {
        "pixels": 99,
        "residual_variance": 2.0,
        "noise_variance": 0.22 * k,
        "noise_share": 0.11 * k,
        "signal_coverage": 0.9 + 0.01 * k if k < 9 else NAN,
        "width_factor": 1 - 0.1 * k,
    },
)
ONE = replace(content(plane(["intensity"], 64, 64, paired=True)), reference=REFERENCE)
THREE = content(
    plane(["Si", "Al", "Fe"], 200, 150, paired=False),
    volumes=(replace(plane(["Si", "Al", "Fe"], 64, 96, paired=True), name="large/map"),),
    tokens=12,
    sides=("below", "above"),
)


# Figures take seconds: where they do not matter, most are left out.
QUICK = replace(ONE, token_coverage=[], intensity=[], widths=[], units=[], reliability=[], pit=[], ensemble=[])


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
    told, path = report
    drawn = {path.stem for path in path.parent.glob("figures/*.svg") if ElementTree.parse(path).getroot() is not None}
    judging = {"channel", "token", "intensity", "width"}
    expected = {"line_cut", "unit_coverage", "reliability", "pit", "ensemble_curves"} | {f"coverage_by_{by}" for by in judging}
    assert drawn == (expected | {"reference_noise"} if told.reference else expected)


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


def html(shown: Content) -> str:
    """The page without its figures, which take seconds."""
    return page.rendered(shown, {})


def read(shown: Content) -> str:
    return " ".join(Tags(html(shown)).text.split())


def top_of(shown: Content) -> str:
    """What is read before the first image."""
    return read(shown).split("The field")[0]


def promising(shown: Content, **changed: object) -> Content:
    changed_certificate: Certificate = {**shown.certificate, **changed}  # type: ignore[typeddict-item]  # keys of the certificate
    return replace(shown, certificate=changed_certificate)


def test_where_nothing_was_noticed_the_page_begins_without_a_warning() -> None:
    assert "Before these intervals are used" not in read(QUICK)


def test_a_missed_promise_is_said_at_the_top() -> None:
    rows = [{**row, "coverage": 0.85, "coverage_low": 0.83, "coverage_high": 0.87} for row in QUICK.channels]
    assert "coverage falls short of 90 %: intensity (85.0 %)" in top_of(replace(QUICK, channels=rows))


@pytest.mark.parametrize(("grouped", "cured"), [(["token"], True), (["intensity"], False)])
def test_values_that_are_covered_far_less_are_said_at_the_top(grouped: list[str], cured: bool) -> None:
    first, *others = ONE.intensity
    others += [{**first, "coverage": 0.87, "coverage_low": 0.86, "coverage_high": 0.88}]
    far = {**first, "coverage": 0.7, "coverage_low": 0.6, "coverage_high": 0.8}
    told = top_of(promising(replace(QUICK, intensity=[far, *others]), grouped_by=grouped))
    place = f"{first['channel']} from {cells.number(first['from'])} to {cells.number(first['to'])} {ONE.field.value_unit}"
    assert f"more than 5 points where the median lies in these tenths of its values: {place} (70.0 %)" in told
    assert "(87.0 %)" not in told
    assert ("; calibration.groups: [intensity] would promise it." in told) == cured


def test_what_is_covered_far_less_on_a_single_block_is_said_at_the_top_with_what_that_means() -> None:
    alone = {"coverage_low": math.nan, "coverage_high": math.nan}
    tenth, token = ONE.intensity[0], ONE.token_coverage[0]
    every = int(QUICK.channels[0]["pixels"])
    tenths = [{**tenth, **alone, "coverage": 0.7, "pixels": every // 10}, {**tenth, **alone, "coverage": 0.86, "pixels": every}]
    tokens = [
        {**token, **alone, "token": number, "coverage": covered, "pixels": pixels}
        for number, covered, pixels in ((1, 0.8, every), (2, 0.1, every // 200))
    ]
    shown = replace(QUICK, intensity=tenths, token_coverage=tokens)
    told = top_of(shown)
    place = f"{tenth['channel']} from {cells.number(tenth['from'])} to {cells.number(tenth['to'])} {ONE.field.value_unit} (70.0 %)"
    assert f"more than 5 points below 90 % of {place}, intensity in token 1 (80.0 %). These voxels are worth one block" in told
    assert "one block or image: no 95 % interval" in read(replace(QUICK, channels=[{**row, **alone} for row in QUICK.channels]))
    assert "no 95 % interval" not in read(QUICK)
    ungrouped = top_of(promising(shown, grouped_by=["intensity"]))
    assert f"of {place}. These" in ungrouped


def test_channels_without_names_and_fast_scans_without_contrast_are_said_at_the_top() -> None:
    volume = replace(QUICK.field, name="map", unnamed=True)
    rows = [{**row, "correlation_noisy": math.nan} for row in QUICK.channels]
    told = top_of(replace(QUICK, volumes=(volume,), channels=rows))
    assert "Channels of which a file does not name each are taken for intensity, in this order: volume map." in told
    assert "The fast scans of intensity are constant on test data" in told
    plain = read(QUICK)
    assert "does not name each" not in plain and "are constant on test data" not in plain
    # where the slow scan is constant, no PSNR is known either
    slow = [{**row, "psnr_noisy": math.nan} for row in rows]
    assert "are constant on test data" not in top_of(promising(replace(QUICK, channels=slow), warnings=["one"]))


@pytest.mark.parametrize("listed", [100, 70])
def test_what_a_list_of_regions_leaves_out_is_told(listed: int) -> None:
    facts = {**REGIONS, "marked": 100, "listed": listed}
    found = RegionList("right", "bright", facts, [], np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint32))
    (drawing,) = page._region_drawings(found, 1)
    assert ("30.0 % of the marked voxels are in regions of fewer than 9, the smallest" in drawing.caption) == (listed == 70)


def test_voxels_of_another_size_than_the_networks_know_are_said_at_the_top() -> None:
    coarse = replace(QUICK.field, name="coarse", unlike="2 x 2 nm, those of the training pairs 1 x 1 nm")
    told = top_of(replace(QUICK, volumes=(coarse,)))
    assert "Voxels seem to be of another size: those of volume coarse are 2 x 2 nm, those of the training pairs 1 x 1 nm." in told


def test_an_image_that_denoising_made_worse_is_said_at_the_top() -> None:
    rows = [{**row, "correlation_noisy": 0.8, "correlation": 0.7} for row in QUICK.channels]
    assert "correlates less with the denoised image than with the fast scan itself: intensity (0.8000 → 0.7000)" in top_of(
        replace(QUICK, channels=rows)
    )


@pytest.mark.parametrize("false_share", [None, 0.08, 0.17])
def test_how_many_marked_test_voxels_are_false_is_told_and_said_at_the_top_where_more_than_promised(
    false_share: float | None,
) -> None:
    test = {"false_share": false_share, "found_share": 0.6, "false_share_of_median": 0.18}
    found = RegionList("right", "bright", {**REGIONS, "test": test}, [], np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint32))
    shown = replace(QUICK, regions=(found,))
    (drawing,) = page._region_drawings(found, 1)
    above = "Regions bright of volume right: at most 10.0 % of their area is promised to be false, in expectation"
    if false_share is None:
        assert drawing.caption == "Of the marked area at most 10 % is false."
    else:
        told = (
            f"{100 * false_share:.1f} % of those marked are false, and 60.0 % of what is true is marked; by the median alone 18.0 %"
        )
        assert told in drawing.caption
    assert (above in read(shown)) == (false_share == 0.17)


def test_tokens_that_are_covered_too_rarely_are_named_at_the_top_if_they_were_promised() -> None:
    told = "intensity in token 2 (60.0 %), intensity in token 1 (70.0 %). That is 2 of 3"
    rows = [
        {**row, "coverage": coverage, "coverage_high": high}
        for row, coverage, high in zip(ONE.token_coverage, (0.7, 0.6, 0.89), (0.89, 0.85, 0.9), strict=True)
    ]
    short = replace(QUICK, token_coverage=rows)
    assert told in top_of(short)
    assert told not in top_of(promising(short, grouped_by=["intensity"]))


def test_scans_that_are_covered_too_rarely_are_named_at_the_top() -> None:
    rows = [{"channel": "intensity", "scan": scan, **judged(1, 0.9)} for scan in range(3)]
    assert "single fast scans" not in top_of(replace(QUICK, scans=rows))
    rows[2] |= {"coverage": 0.86, "coverage_high": 0.88}
    shown = replace(QUICK, scans=rows)
    assert (
        "coverage of single fast scans (the first that is used is 0) falls short of 90 %: intensity in scan 2 (86.0 %)."
        in top_of(shown)
    )
    assert "That is 1 of 3; chance would let about 0.08 look like that." in top_of(shown)
    short = [{**row, "coverage": 0.85, "coverage_low": 0.83, "coverage_high": 0.87} for row in QUICK.channels]
    assert "single fast scans" not in top_of(replace(shown, channels=short))
    assert "Coverage by fast scan" in read(shown) and "Coverage by fast scan" not in read(QUICK)


def test_of_many_short_tokens_the_worst_are_named_and_the_others_counted() -> None:
    rows = [{**row, "coverage": 0.5 + int(row["token"]) / 100, "coverage_high": 0.8} for row in THREE.token_coverage[:12]]
    text = top_of(replace(QUICK, token_coverage=rows))
    assert "Si in token 1 (51.0 %)" in text and "Si in token 5 (55.0 %) and 7 more." in text and "token 6" not in text


def test_warnings_of_the_certificate_stand_at_the_top_and_many_can_be_unfolded() -> None:
    warned = promising(QUICK, warnings=[f"warning {index}" for index in range(7)])
    source = html(warned)
    box = source[source.index("Before these intervals are used") : source.index("The field")]
    open_part, folded = box.split("<details><summary>2 more</summary>")
    assert re.findall(r"warning \d", open_part) == [f"warning {index}" for index in range(5)]
    assert re.findall(r"warning \d", folded) == ["warning 5", "warning 6"]


def checked(*findings: Finding, volume: str) -> Check:
    return {
        "volume": volume,
        "same_field": False,
        "specimen": f"The promise is about the specimen, not {volume}.",
        "findings": findings,
    }


def with_check(*findings: Finding) -> Content:
    volume = replace(QUICK.field, name="large", title="the large one")
    return replace(QUICK, volumes=(volume,), checks=[checked(*findings, volume="large")])


def test_what_is_flagged_about_a_volume_comes_first_there_and_is_said_at_the_top() -> None:
    shown = with_check(finding("width", flagged=False), finding("median", flagged=True), finding("token", flagged=False))
    text = read(shown)
    top, below = text.split("The field")[0], text[text.index("the large one") :]
    assert "Unlike the calibration data: volume large (1 of 3 checks)." in top
    assert below.index("not large.") < below.index("the median was looked at") < below.index("the width was looked at")
    assert "nothing unusual" not in text


def test_displaced_scans_are_said_at_the_top() -> None:
    found = "the slow scan against scan 0 by y +0.70 ± 0.01, x +0.00 ± 0.02 voxels"
    top = read(replace(QUICK, displaced=[found])).split("The field")[0]
    assert f"Scans of the training pairs are displaced: {found}." in top
    assert "are displaced" not in read(QUICK)


def test_a_volume_without_a_flag_says_so_and_still_what_the_promise_is_about() -> None:
    text = read(with_check(finding("width", flagged=False), finding("median", flagged=False)))
    assert "nothing unusual found (2 checks" in text
    assert "The promise is about the specimen, not large." in text
    assert "Before these intervals" not in text


def test_a_volume_too_small_to_compare_is_not_called_usual() -> None:
    text = read(with_check({**finding("size", flagged=False), "sentence": "too small to compare: 1 block"}))
    assert "Too small to compare: 1 block." in text
    assert "nothing unusual" not in text


def test_a_volume_that_nobody_compared_carries_no_promise() -> None:
    text = read(replace(with_check(), checks=[]))
    assert "The promise is for the calibrated specimen; this volume was not compared with it." in text


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


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (page.write(ONE, tmp_path / turn) for turn in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    for path in first.parent.glob("figures/*"):
        assert path.read_bytes() == (second.parent / "figures" / path.name).read_bytes(), path.name


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    without = {
        name: [] for name in ("channels", "token_coverage", "intensity", "widths", "units", "reliability", "pit", "ensemble")
    }
    bare = replace(THREE, **without, tokens=[], stability=[], volumes=())
    text = Tags(page.write(bare, tmp_path).read_text(encoding="utf-8")).text
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {"maps", "line_cut"}
    assert not re.search("Tokens|Coverage:|All levels|Width:|Noise of the clean scan|Volumes", text)


def test_the_line_cut_takes_the_row_with_most_structure_among_test_rows() -> None:
    field = plane(["a", "b"], 64, 64, paired=True)
    median = np.ones_like(field.median)
    median[:, 5] = 100 * np.sin(np.arange(64))
    median[:, 60] = np.sin(np.arange(64))
    cut = replace(field, median=median)
    assert figures.structured_cut(cut)[0] == 60
    assert figures.structured_cut(replace(cut, role=None))[0] == 5


def test_the_line_cut_says_where_it_lies_to_the_digits_of_stage_coordinates() -> None:
    row, _ = figures.structured_cut(QUICK.field)
    far = replace(QUICK.field, origin=(1234567.25, 0.0), spacing=(0.5, 0.5), length_unit="micrometer")
    title = figures.line_cut(far).axes[0].get_title(loc="left")
    assert title == f"{far.title}, {far.axes[0]} = {1234567.25 + 0.5 * row:.8g} µm"
    assert len(title.split()[-2]) > 8


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
    assert cells.number(value) == text


def test_percentages_read_with_one_digit_after_the_point() -> None:
    assert [cells.percent(value) for value in (0.8995, 1, NAN)] == ["90.0 %", "100.0 %", "n/a"]
    assert [cells.points(value) for value in (0.0123, NAN)] == ["1.2", "n/a"]


def printed(shown: Content, name: str) -> list[dict[str, str]]:
    """Rows of a printed table, by header."""
    table = cells.tables(shown)[name]
    return [dict(zip([column.header for column in table.columns], row, strict=True)) for row in table.rows]


def test_the_certificate_has_a_row_for_every_channel_group_and_side() -> None:
    rows = printed(THREE, "thresholds")
    places = [(row["channel"], row["pixels of"], row["side"]) for row in rows]
    assert len(set(places)) == len(places) == 3 * 12 * 2
    assert rows[0]["threshold (counts)"] == "-0.01234"
    assert rows[0]["effective samples (independent pixels)"] == "939.8"


@pytest.mark.parametrize(
    ("key", "title"),
    [("effective_samples", "effective samples (independent pixels)"), ("blocks", "blocks that show dependence")],
)
def test_grounds_are_left_out_where_the_guarantee_does_not_ask_for_them(key: str, title: str) -> None:
    assert title in printed(ONE, "thresholds")[0]
    unknown = [{**row, key: NAN} for row in ONE.certificate["thresholds"]]
    assert title not in printed(promising(ONE, thresholds=unknown), "thresholds")[0]


def test_a_guarantee_that_cannot_be_given_has_no_threshold_and_the_chosen_one_is_marked() -> None:
    row = printed(ONE, "alternatives")[0]
    assert (row["pac (this one)"], row["crc"], row["rcps"]) == ("-0.01234", "0.5678", "none")


def test_the_page_tells_what_was_merged_and_what_was_checked() -> None:
    text = read(promising(QUICK, merged=["token 1 and token 2 share one threshold"]))
    assert "token 1 and token 2 share one threshold" in text[text.index("The certificate") :]
    assert "roles are apart" in text


def test_every_number_that_judges_the_intervals_is_on_the_page() -> None:
    text = read(QUICK)
    coverage = ("4.1 %", "5.8 %", "81.2 %", "83.5 %", "91.2 %", "76.5 %", "1.2", "2.3")
    accuracy = ("0.5700", "2.790", "90.6 %", "4.650", "77.8 %", "0.7890", "0.1234", "0.1222", "0.2345", "0.4321")
    assert [number for number in (*coverage, *accuracy) if number not in text] == []
    assert "Coverage by width" not in text


def test_noise_of_the_reference_is_shown_with_what_it_assumes_and_that_nothing_is_corrected() -> None:
    text = read(QUICK)
    section = text[text.index("Noise of the clean scan") :]
    assert "assumes that this noise and the error of the denoised value are independent" in section
    assert "Nothing is corrected for it" in section
    assert "Noise of the clean scan" not in read(replace(QUICK, reference=[]))
    assert printed(QUICK, "reference")[9]["implied coverage of the true signal"] == "n/a"


def test_a_number_of_tokens_that_is_not_agreed_on_is_told_where_they_stand() -> None:
    def rows(*agreed: int) -> list[dict[str, float | str]]:
        return [{**row, "agreed_on": "yes" if row["tokens"] in agreed else "no"} for row in QUICK.stability]

    assert notices.doubt(QUICK) == ""
    assert notices.doubt(replace(QUICK, stability=[])) == ""
    told = "Other fits do not agree on these 3 tokens (adjusted Rand index with other seeds 0.85, between halves"
    for agreed, hint in ((), "No other number is agreed on either; more networks may help."), ((2, 4), "Agreed on: 2, 4."):
        doubt = notices.doubt(replace(QUICK, stability=rows(*agreed)))
        assert doubt.startswith(told) and doubt.endswith(hint)
    text = read(replace(QUICK, stability=rows()))
    assert told in text[text.index("Tokens: what is it made of?") :]
    assert "Other fits do not agree" not in read(QUICK)


def coloured(field: Slice, components: int) -> Slice:
    shades = np.random.default_rng(0).integers(1, 256, (3, *field.median.shape[1:])).astype(np.uint8)
    shades[:, 5, 7] = 0
    return replace(field, colours=shades, explained=(0.5, 0.25, 0.125)[:components])


def test_the_embedding_stands_between_tokens_and_median_as_it_is_coloured() -> None:
    field = coloured(QUICK.field, 3)
    drawn = figures.tokens(field, COLOURS)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["tokens", "embedding in false colours", f"{field.channel_names[0]}: denoised"]
    pixels = np.asarray(panels[1].get_images()[0].get_array())
    assert field.colours is not None
    np.testing.assert_array_equal(pixels[..., :3], np.moveaxis(field.colours, 0, -1))
    assert pixels[5, 7, 3] == 0 and pixels[..., 3].sum() == 255 * (pixels[..., 3].size - 1)
    assert len(figures.tokens(QUICK.field, COLOURS).axes) == len(drawn.axes) - 1


@pytest.mark.parametrize(
    ("components", "words"),
    [(3, "the first 3 components of the embedding"), (2, "the first 2 components of the embedding"), (1, "the first component of")],
)
def test_the_caption_of_false_colours_says_what_they_are_and_how_much_they_hold(components: int, words: str) -> None:
    field = coloured(QUICK.field, components)
    (drawing,) = page._token_drawings(field, "tokens", COLOURS)
    share = ", ".join(["50.0 %", "25.0 %", "12.5 %"][:components])
    assert words in drawing.caption
    assert f"with {share} of the latents' variance, as {', '.join(['red', 'green', 'blue'][:components])}." in drawing.caption
    assert "a colour has no meaning and no scale beyond that" in drawing.caption
    (plain,) = page._token_drawings(QUICK.field, "tokens", COLOURS)
    assert "false colours" not in plain.caption


def test_a_slice_without_tokens_or_roles_is_refused() -> None:
    with pytest.raises(ValueError, match="'a field' has no tokens"):
        figures.tokens(THREE.field, COLOURS)
    with pytest.raises(ValueError, match="'a field' has no roles"):
        figures.split_map(THREE.field)
