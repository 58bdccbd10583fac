import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.image import imread

from behindthenoise.cli import main
from behindthenoise.config import NetworkConfig
from behindthenoise.core import architecture as architectures
from behindthenoise.core.graph import Edge, Graph
from behindthenoise.core.memory import bytes_per_voxel
from behindthenoise.core.unet import UNet
from behindthenoise.report import page, wiring
from behindthenoise.report.content import Content, Slice

PIECES = {"ndim": 2, "in_channels": 1, "out_channels": 1, "latent": 3, "head": 4}
SMALL = architectures.Architecture(
    Graph(3, (Edge(0, 1, 1, 2), Edge(1, 2, 2, 8), Edge(1, 2, 3, 2), Edge(2, 5, 3, 4)), (1, 3)),
    **PIECES,
)


def drawn(**settings):
    return architectures.draw(NetworkConfig(**settings), architectures.generator(1, 0), ndim=2, channels=1)


SIZES = [
    {"depth": 1, "input_output": True},
    {"depth": 6},
    {"depth": 20},
    {"depth": 60, "width": (2, 4, 8), "dilations": (1, 2, 3, 4, 5, 6, 8, 10), "radius_max": 40, "dilation_by": "edge"},
    {"depth": 200, "radius_max": 30},
    {"kind": "unet", "radius_max": 60},
]


def lines(figure):
    """Ends, colours and widths of the arcs: between hidden nodes, from the input, to the latent."""
    found = []
    for part in figure.axes[0].collections:
        assert isinstance(part, LineCollection)
        ends = [tuple(round(float(value)) for value in segment[[0, -1], 0]) for segment in part.get_segments()]
        colours = np.broadcast_to(part.get_colors(), (len(ends), 4)) if ends else []
        found.append(dict(zip(ends, zip(map(tuple, colours), part.get_linewidths(), strict=True), strict=True)))
    return found


def test_every_edge_is_an_arc_from_its_source_to_its_target():
    between, entering, leaving = lines(wiring.figure(SMALL))
    assert set(between) == {(1, 2), (1, 3), (2, 3)}
    assert set(entering) == {(0, 1)}
    assert set(leaving) == {(1, 4), (3, 4)}


def test_colour_is_dilation_and_width_is_channels():
    between, entering, leaving = lines(wiring.figure(SMALL))
    assert between[1, 2][0] == between[1, 3][0]
    assert len({between[1, 2][0], between[2, 3][0], entering[0, 1][0], leaving[1, 4][0]}) == 4
    # area for channels: 2, 4, 8 on edges, and 6 that arrive at node 3
    assert between[1, 3][1] < between[2, 3][1] < leaving[3, 4][1] < between[1, 2][1]


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_a_larger_dilation_is_brighter_and_none_is_as_bright_as_paper(count):
    colours = wiring._colours(list(range(1, count + 1))).values()
    brightness = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in colours]
    assert brightness == sorted(set(brightness))
    assert brightness[-1] < 0.8


@pytest.mark.parametrize("settings", SIZES, ids=str)
def test_no_text_of_a_picture_lies_on_another_or_is_cut_off(settings):
    figure = wiring.figure(drawn(**settings))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [
        text.get_window_extent(canvas.get_renderer())
        for text in [*figure.axes[0].texts, figure.axes[0].title]
        if text.get_text() and text.get_visible()
    ]
    width, height = canvas.get_width_height()
    assert len(boxes) >= 4
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_a_unet_is_a_box_for_each_level_on_the_way_down_and_up():
    figure = wiring.figure(architectures.Architecture(UNet(2, 3, 4), **{**PIECES, "ndim": 3}))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if "3x3x3" in text] == [f"{count} channels\n3 x 3x3x3" for count in (4, 8, 16, 8, 4)]
    assert sum("along each axis" in text for text in texts) == 2


@pytest.mark.parametrize("architecture", [SMALL, drawn(kind="unet", radius_max=40)], ids=["graph", "unet"])
def test_the_numbers_are_those_of_the_architecture(architecture):
    facts = wiring.facts(architecture)
    assert facts["parameters"] == str(architecture.parameters)
    assert facts["receptive radius"] == f"{architecture.radius} voxels"
    assert facts["multiply-adds per voxel"] == f"{architecture.operations:.0f}"
    assert facts["bytes per voxel"] == f"{bytes_per_voxel(architecture)} at most"
    title = wiring.figure(architecture).axes[0].get_title().replace("\N{NARROW NO-BREAK SPACE}", "")
    assert title == (
        f"{architecture.wiring.kind}: {architecture.parameters} parameters, receptive radius {architecture.radius} voxels"
    )


def test_the_verb_prints_the_numbers_and_draws_beside_the_graph(tmp_path, capsys):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(SMALL.as_data()))
    assert main(["draw", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "nodes: 3 hidden; fed by the input: 1; feeding the latent: 2\nedges: 4, of dilations 1, 2, 5\n" in shown
    assert f"parameters: {SMALL.parameters}\n" in shown
    assert f"picture: {tmp_path / 'graph.svg'}\n" in shown
    first = (tmp_path / "graph.svg").read_bytes()
    assert main(["draw", str(path), "--picture", str(tmp_path / "other" / "again.svg")]) == 0
    assert (tmp_path / "other" / "again.svg").read_bytes() == first


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_chooses_the_format(tmp_path, suffix, begin):
    wiring.write(SMALL, tmp_path / f"picture.{suffix}")
    assert (tmp_path / f"picture.{suffix}").read_bytes().startswith(begin)


@pytest.mark.parametrize(
    ("content", "picture", "message"),
    [
        (SMALL.as_data(), "a.jpg", "ends with '.jpg'; give it one of .svg, .png, .pdf"),
        ({**SMALL.as_data(), "version": 1}, "a.svg", "graph has version 1 and kind 'smsnet'; this program reads version 2"),
        (None, "a.svg", "graph.json is not there"),
    ],
    ids=["suffix", "version", "absent"],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, capsys, content, picture, message):
    if content is not None:
        (tmp_path / "graph.json").write_text(json.dumps(content))
    assert main(["draw", str(tmp_path / "graph.json"), "--picture", str(tmp_path / picture)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / picture).exists()


def test_drawing_needs_no_torch():
    code = "import sys, behindthenoise.report.wiring; print(*sorted({'torch', 'zarr', 'matplotlib.pyplot'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, ""), loaded.stderr


def test_the_report_shows_the_wiring_of_the_first_member_among_the_ensemble(tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    shown = Content(
        dataset="some",
        version="0",
        created="today",
        facts={},
        certificate={
            "sentence": "It holds.",
            "assumptions": [],
            "checked": [],
            "warnings": [],
            "merged": [],
            "guarantee": "pac",
            "grouped_by": [],
            "threshold_unit": "counts",
            "thresholds": [],
            "alternatives": [],
        },
        coverage=0.9,
        **{
            name: []
            for name in (
                "channels",
                "token_coverage",
                "intensity",
                "widths",
                "units",
                "reliability",
                "pit",
                "reference",
                "token_colours",
                "stability",
            )
        },
        ensemble=[],
        tokens=[],
        checks=[],
        field=Slice("field", "field", ("a",), "counts", "pixel", (1.0, 1.0), ("y", "x"), *[values] * 4),
        volumes=(),
        config_text="",
        architecture=SMALL,
    )
    text = page.write(shown, tmp_path).read_text(encoding="utf-8")
    section = text[text.index("<h2>The ensemble") :].split("</section>")[0]
    assert "Wiring of the first member" in section
    assert (tmp_path / "figures/wiring.svg").read_text().startswith("<?xml")
    assert imread(tmp_path / "figures/wiring.png")[..., :3].std() > 0.02
    assert "Wiring" not in page.write(replace(shown, architecture=None), tmp_path).read_text(encoding="utf-8")
