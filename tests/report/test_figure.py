"""`--figure`, and the charts that it shares with the page."""

from __future__ import annotations

import io
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.interval import Interval
from joulecast.report.charts import Point, bars, front, merits, pareto
from joulecast.report.document import Report
from joulecast.report.figure import SUFFIXES, figure_bytes, figure_format
from joulecast.report.labels import Box, Whisker, place
from joulecast.report.parts import layer_parts
from joulecast.report.svg import inline_svg

from .pages import LENGTH, PLACE, made_up, report, workload

SIZES = {"small": 10**9, "middle": 3 * 10**9, "la$rge": 40 * 10**9}


def one() -> Report:
    return report([made_up(*LENGTH, *PLACE, work=workload(layers=("stem", "body.conv", "head")))])


def several(**values: object) -> Report:
    return report([made_up(*LENGTH, *PLACE, work=workload(name, flops=size)) for name, size in SIZES.items()], **values)


def words_of(svg: bytes | str) -> str:
    return " ".join(
        "".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("made", [one, several])
def test_the_same_run_gives_the_same_file(suffix: str, made: object) -> None:
    first, second = (figure_bytes(made(), suffix) for _ in range(2))  # type: ignore[operator]
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert b"<dc:date>" not in first


def test_a_png_is_one_column_wide_and_not_empty() -> None:
    pixels = matplotlib.image.imread(io.BytesIO(figure_bytes(one(), ".png")))
    assert pixels.shape[1] == pytest.approx(245 / 72 * 300, abs=2)
    assert 0.02 < float((pixels[..., :3].min(axis=2) < 0.9).mean()) < 0.6


def test_one_model_is_shown_by_component_and_by_layer() -> None:
    words = words_of(figure_bytes(one(), ".svg"))
    for name in ("by component", "compute", "static", "by layer", "stem", "body.conv", "head"):
        assert name in words
    assert "57.1" in words  # 4 of 4 + 2 + 1


def test_several_models_are_shown_with_their_intervals_and_the_front() -> None:
    words = words_of(figure_bytes(several(), ".svg"))
    for name in (*SIZES, "energy and its 90 % interval, kWh", "parameters"):
        assert name in words
    assert "accuracy, as given" in words_of(figure_bytes(several(accuracies=(70.0, 74.0, 76.0)), ".svg"))


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.svg.zip", "png"])
def test_an_unknown_suffix_names_the_known(name: str) -> None:
    with pytest.raises(JoulecastError, match=r"give \.png, \.svg or \.pdf"):
        figure_format(Path(name))


def test_suffixes_are_known_in_any_case() -> None:
    assert figure_format(Path("a/OUT.PNG")) == ".png"


# -- the charts within the page --------------------------------------------------------------------


def test_a_chart_in_the_page_is_text_in_the_pages_colours() -> None:
    drawn = [inline_svg(bars(layer_parts(one().answers[0])), key="a", label="said")]
    drawn += [inline_svg(pareto(several(), merit), key="b", label="said") for merit in merits(several())]
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.attrib["aria-label"] == "said"
        colours = {node.attrib[key] for node in root.iter() for key in ("fill", "stroke") if key in node.attrib}
        assert colours
        assert all(colour == "none" or re.fullmatch(r"var\(--\w+\)", colour) for colour in colours), colours
        assert not [node.attrib for node in root.iter() if "style" in node.attrib]
        ids = {node.attrib["id"] for node in root.iter() if "id" in node.attrib}
        uses = set(re.findall(r'#([\w-]+)[")]', svg))
        assert uses <= ids
    assert "stem · Linear" in words_of(drawn[0])
    assert "la$rge" in words_of(drawn[1])  # no formula is made of a name


def test_charts_of_one_page_share_no_ids() -> None:
    merit = merits(several())[0]
    ids = [set(re.findall(r'id="([^"]+)"', inline_svg(pareto(several(), merit), key=key, label=""))) for key in "ab"]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_the_same_chart_gives_the_same_text() -> None:
    texts = {inline_svg(pareto(several(), merits(several())[0]), key="a", label="") for _ in range(2)}
    assert len(texts) == 1


# -- names in a plot -------------------------------------------------------------------------------

FRAME = Box(0, 0, 360, 270)


def test_a_name_stands_above_its_whisker_and_gives_way_where_another_is() -> None:
    far = place([Whisker(100, 50, 80, 120), Whisker(250, 50, 80, 120)], [(60, 11)] * 2, FRAME)
    assert [(spot.x, spot.across) for spot in far] == [(100, "center"), (250, "center")]
    assert all(spot.box.low > 120 for spot in far)
    near = place([Whisker(100, 50, 80, 120), Whisker(120, 50, 80, 120)], [(60, 11)] * 2, FRAME)
    assert not near[0].box.overlaps(near[1].box)


def test_a_name_at_the_edge_stays_inside() -> None:
    (corner,) = place([Whisker(355, 200, 240, 268)], [(60, 11)], FRAME)
    assert corner.box.within(FRAME)


@given(st.lists(st.tuples(st.floats(40, 320), st.floats(40, 230)), min_size=1, max_size=2))
def test_few_names_cover_no_other_name(points_: list[tuple[float, float]]) -> None:
    whiskers = [Whisker(x, y - 10, y, y + 10) for x, y in points_]
    boxes = [spot.box for spot in place(whiskers, [(50, 11)] * len(whiskers), FRAME)]
    assert all(box.within(FRAME) for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


# -- the front -------------------------------------------------------------------------------------


def point(merit: float, energy_kwh: float) -> Point:
    return Point(f"{merit}", merit, Interval.exact(energy_kwh))


def test_the_front_holds_what_nothing_beats() -> None:
    best = [point(70, 1), point(75, 3), point(80, 9)]
    beaten = [point(69, 1), point(75, 4), point(72, 3)]
    assert front([*beaten, *reversed(best)]) == best


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_beats_all_others_and_rises(pairs: list[tuple[int, int]]) -> None:
    models = [point(*pair) for pair in pairs]
    best = front(models)
    for model in models:
        assert any(one.merit >= model.merit and one.energy_kwh.value <= model.energy_kwh.value for one in best)
    merits_, energies = [one.merit for one in best], [one.energy_kwh.value for one in best]
    assert merits_ == sorted(merits_)
    assert energies == sorted(energies)
