from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from behindthenoise.core.palette import colour
from behindthenoise.report import coverage
from behindthenoise.report.content import Table

NAN = float("nan")
NOMINAL = 0.9


def group(index: int, middle: float) -> dict[str, float]:
    return {
        "coverage": middle,
        "coverage_low": middle - 0.02 - index / 1000,
        "coverage_high": middle + 0.03,
        "width": 0.5 + index / 9,
    }


COLOURS = [colour(place) for place in (3, 1, 0, 2, *range(4, 255))]


def by_token(channels: Sequence[str], tokens: Sequence[int]) -> Table:
    # not in order, as rows of a table may be
    return [
        {"channel": name, "token": token, **group(token, 0.85 + token / 1000)} for name in channels for token in reversed(tokens)
    ]


def tenths(channels: Sequence[str], low: float = 0.1, high: float = 300.0) -> Table:
    edges = np.geomspace(low, high, 11).tolist()
    return [
        {
            "channel": name,
            "bin": index,
            "from": edges[index],
            "to": edges[index + 1],
            **group(index, 0.8 + index / 100),
            "noise_share": 0.1 + index / 8,
            "signal_coverage": 0.91 + index / 200 if index < 8 else NAN,
        }
        for name in channels
        for index in reversed(range(10))
    ]


def levels(channels: Sequence[str]) -> Table:
    return [{"channel": name, "level": k / 100, **group(0, (k / 100) ** 0.8)} for name in channels for k in range(1, 98)]


def transform(channels: Sequence[str]) -> Table:
    return [
        {"channel": name, "from": k / 20, "to": (k + 1) / 20, "share": 0.02 + 0.003 * k} for name in channels for k in range(20)
    ]


def panels_of(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


def bars_of(panel: Axes) -> np.ndarray:
    """Position, lower and upper end of the vertical lines of a panel."""
    (lines,) = [part for part in panel.collections if isinstance(part, LineCollection)]
    ends = np.array(lines.get_segments())
    return np.column_stack([ends[:, 0, 0], ends[:, :, 1]])


def steps_of(panel: Axes) -> np.ndarray:
    (steps,) = [part for part in panel.patches if isinstance(part, StepPatch)]
    return steps.get_data().values


def level_lines(panel: Axes) -> list[float]:
    """Heights of the horizontal lines across a panel."""
    return [float(line.get_ydata()[0]) for line in panel.lines if len(set(line.get_ydata())) == 1]


def test_every_token_stands_in_its_colour_at_its_coverage_with_its_interval_above_its_width() -> None:
    top, bottom = panels_of(coverage.by_token(by_token(["a"], [1, 2, 5]), NOMINAL, "counts", COLOURS))
    (dots,) = [part for part in top.collections if not isinstance(part, LineCollection)]
    np.testing.assert_allclose(dots.get_offsets(), [[0, 0.851], [1, 0.852], [2, 0.855]])
    assert [to_hex(colour) for colour in dots.get_facecolors()] == [COLOURS[token - 1] for token in (1, 2, 5)]
    np.testing.assert_allclose(bars_of(top), [[0, 0.830, 0.881], [1, 0.830, 0.882], [2, 0.830, 0.885]])
    np.testing.assert_allclose([bar.get_height() for bar in bottom.patches], [0.5 + token / 9 for token in (1, 2, 5)])
    assert [to_hex(bar.get_facecolor()) for bar in bottom.patches] == [COLOURS[token - 1] for token in (1, 2, 5)]
    assert [text.get_text() for text in bottom.get_xticklabels()] == ["1", "2", "5"]
    assert level_lines(top) == [NOMINAL]


def test_pixels_without_a_token_have_no_tokens_colour() -> None:
    top, _ = panels_of(coverage.by_token(by_token(["a"], [0, 1]), NOMINAL, "counts", COLOURS))
    (dots,) = [part for part in top.collections if not isinstance(part, LineCollection)]
    first, second = (to_hex(colour) for colour in dots.get_facecolors())
    assert first not in COLOURS and second == COLOURS[0]


@pytest.mark.parametrize("draw", [coverage.by_intensity, coverage.by_width], ids=["intensity", "width"])
def test_tenths_stand_in_order_with_their_intervals_and_edges(draw: Callable[[Table, float, str], Figure]) -> None:
    first, *others = panels_of(draw(tenths(["a", "b"]), NOMINAL, "counts"))
    np.testing.assert_allclose(steps_of(first), 0.8 + np.arange(10) / 100)
    np.testing.assert_allclose(bars_of(first)[:, 0], np.arange(10) + 0.5)
    np.testing.assert_allclose(bars_of(first)[:, 1], 0.78 + np.arange(10) / 100 - np.arange(10) / 1000)
    assert level_lines(first) == [NOMINAL]
    labelled = [text.get_text() for text in others[-1].get_xticklabels()]
    assert len(labelled) == 11 and labelled[0] == "0.1" and labelled[-1] == "300"


def test_reliability_is_the_measured_over_the_nominal_level_with_its_band_and_the_diagonal() -> None:
    (panel,) = panels_of(coverage.reliability(levels(["a"]), NOMINAL))
    curves = {line.get_label(): np.array(line.get_data()) for line in panel.lines}
    np.testing.assert_allclose(curves["measured"][1], curves["measured"][0] ** 0.8)
    np.testing.assert_array_equal(curves["as promised"], [[0, 1], [0, 1]])
    assert set(curves["the promised 90 %"][0]) == {NOMINAL}
    (band,) = panel.collections
    outline = band.get_paths()[0].vertices
    at = outline[np.isclose(outline[:, 0], 0.5)][:, 1]
    np.testing.assert_allclose([at.min(), at.max()], [0.5**0.8 - 0.02, 0.5**0.8 + 0.03])


def test_the_histogram_of_the_transform_is_measured_against_one_in_twenty() -> None:
    (panel,) = panels_of(coverage.pit(transform(["a"])))
    np.testing.assert_allclose([bar.get_height() for bar in panel.patches], 0.02 + 0.003 * np.arange(20))
    np.testing.assert_allclose([bar.get_x() for bar in panel.patches], np.arange(20) / 20)
    assert level_lines(panel) == [0.05]


def test_where_the_noise_would_be_all_of_the_residuals_no_coverage_of_the_signal_is_drawn() -> None:
    top, bottom = panels_of(coverage.reference_noise(tenths(["a"]), NOMINAL, "counts"))
    np.testing.assert_allclose(steps_of(top), 0.1 + np.arange(10) / 8)
    assert np.isnan(steps_of(bottom)).tolist() == [False] * 8 + [True] * 2
    assert level_lines(top) == [1.0] and level_lines(bottom) == [NOMINAL]


def test_noise_that_explains_nothing_anywhere_can_still_be_drawn() -> None:
    rows = [{**row, "signal_coverage": NAN, "noise_share": NAN} for row in tenths(["a"])]
    assert len(panels_of(coverage.reference_noise(rows, NOMINAL, "counts"))) == 2


def test_an_interval_that_does_not_exist_leaves_its_coverage_to_be_seen() -> None:
    rows = [{**row, "coverage_low": NAN, "coverage_high": NAN} for row in by_token(["a"], [1, 2])]
    top, _ = panels_of(coverage.by_token(rows, NOMINAL, "counts", COLOURS))
    low, high = top.get_ylim()
    assert low < 0.851 and high > NOMINAL


def figures(channels: Sequence[str], tokens: int) -> Mapping[str, Figure]:
    return {
        "token": coverage.by_token(by_token(channels, range(1, tokens + 1)), NOMINAL, "counts", COLOURS),
        "intensity": coverage.by_intensity(tenths(channels, 1.234e-4), NOMINAL, "counts"),
        "width": coverage.by_width(tenths(channels), NOMINAL, "counts"),
        "reliability": coverage.reliability(levels(channels), NOMINAL),
        "pit": coverage.pit(transform(channels)),
        "reference": coverage.reference_noise(tenths(channels), NOMINAL, "counts"),
    }


def ticks_seen(axis: Axis) -> list[Text]:
    """Labels of an axis, without those of ticks beyond its ends."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible()]


@pytest.mark.parametrize("channels", [["a"], ["Si", "Al", "Fe"], list("abcde")], ids=len)
@pytest.mark.parametrize("tokens", [3, 12, 48, 200])
def test_no_text_lies_on_another_or_is_cut_off(channels: Sequence[str], tokens: int) -> None:
    drawn = figures(channels, tokens)
    for name, figure in drawn.items() if tokens == 12 else [("token", drawn["token"])]:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = [text for panel in panels_of(figure) for text in (panel.title, panel.xaxis.label, panel.yaxis.label)]
        texts += [text for panel in panels_of(figure) for axis in (panel.xaxis, panel.yaxis) for text in ticks_seen(axis)]
        texts += figure.texts + [text for legend in figure.legends for text in legend.get_texts()]
        # a turned label fills a corner of its box alone
        boxes = [
            (text.get_text(), text.get_window_extent(canvas.get_renderer()))
            for text in texts
            if text.get_text() and text.get_visible() and not text.get_rotation() % 90
        ]
        width, height = canvas.get_width_height()
        assert len(boxes) > len(channels)
        for index, (told, box) in enumerate(boxes):
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, (name, told)
            assert [other for other, place in boxes[:index] if box.overlaps(place)] == [], (name, told)


def test_each_channel_has_one_stack_of_panels_and_empty_places_are_not_drawn() -> None:
    stacks = panels_of(coverage.by_token(by_token(list("abcde"), range(12)), NOMINAL, "counts", COLOURS))
    assert [panel.get_title() for panel in stacks if panel.get_title()] == list("abcde")
    assert len(stacks) == 10
