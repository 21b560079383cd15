"""The figures show every score, gap and baseline they were given, and say what the weights are."""

import math

import pytest

from probes.figures import STYLES, draw_task, write_figures
from probes.selection import series_of
from tests.support.records import make_record
from tests.support.study import make_study

NAMES = [f"{task}_probing.{suffix}" for task in ("phoneme", "speaker", "pitch") for suffix in ("png", "pdf")]


def draw(records, task="phoneme"):
    return draw_task(series_of(records), task)


def curves(axis):
    """Label -> {layer: value} of the lines that have markers."""
    lines = [line for line in axis.get_lines() if line.get_marker() != "None"]
    return {line.get_label(): dict(zip(map(int, line.get_xdata()), line.get_ydata(), strict=True)) for line in lines}


def references(axis):
    lines = [line for line in axis.get_lines() if line.get_marker() == "None"]
    return {(line.get_label(), float(line.get_ydata()[0])) for line in lines}


def words(figure):
    from matplotlib.text import Text

    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def legend_names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_writes_the_six_files_and_no_other(tmp_path):
    folder = tmp_path / "new" / "figures"
    paths = write_figures(make_study(intervals=True), folder)
    assert paths == [folder / name for name in NAMES]
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)
    assert (folder / "phoneme_probing.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "pitch_probing.pdf").read_bytes().startswith(b"%PDF")


def test_equal_records_give_equal_bytes(tmp_path):
    first, second = (write_figures(make_study(("melrvq",)), tmp_path / name) for name in "ab")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("task", "metrics"),
    [("phoneme", ("accuracy", "macro_f1")), ("speaker", ("accuracy", "macro_f1")), ("pitch", ("mae_hz", "r2"))],
)
def test_every_score_is_drawn_at_its_layer(task, metrics):
    records = make_study()
    figure = draw(records, task)
    for axis, metric in zip(figure.axes, metrics, strict=True):
        drawn = curves(axis)
        assert list(drawn) == ["EnCodec (pretrained)", "SpeechTokenizer (pretrained)", "melrvq (log-mel baseline)"]
        for codec, label in zip(("encodec", "speechtokenizer", "melrvq"), drawn, strict=True):
            expected = {r["layer"]: r[metric] for r in records if r["codec"] == codec and r["task"] == task}
            assert drawn[label] == expected
    assert [int(tick) for tick in figure.axes[1].get_xticks()] == list(range(1, 9))
    assert figure.axes[1].get_xlabel() == "RVQ layer"


def test_baselines_are_drawn_and_named():
    accuracy, macro_f1 = draw(make_study()).axes
    assert references(accuracy) == {("chance", 0.014), ("majority class", 0.1)}
    assert references(macro_f1) == {("chance", 0.011), ("majority class", 0.003)}
    mae, r2 = draw(make_study(), "pitch").axes
    assert references(mae) == {("mean baseline", 42.5)}
    assert references(r2) == {("mean baseline", 0.0)}
    assert legend_names(draw(make_study()))[-2:] == ["chance", "majority class"]
    assert legend_names(draw(make_study(), "pitch"))[-1] == "mean baseline"


def test_baselines_that_differ_between_codecs_are_all_drawn_but_named_once():
    figure = draw([make_record(majority_accuracy=0.10), make_record("melrvq", majority_accuracy=0.13)])
    assert {value for name, value in references(figure.axes[0]) if name == "majority class"} == {0.10, 0.13}
    assert legend_names(figure).count("majority class") == 1


def test_untrained_weights_are_named_in_legend_and_title_and_hollow():
    records = [make_record(weights="untrained"), make_record("melrvq", weights="untrained")]
    figure = draw(records)
    assert "untrained weights: control, not the codec's result (EnCodec)" in words(figure)
    assert legend_names(figure)[:2] == ["EnCodec (untrained control)", "melrvq (log-mel baseline)"]
    faces = {line.get_label(): line.get_markerfacecolor() for line in figure.axes[0].get_lines()}
    assert faces["EnCodec (untrained control)"] == "white"
    assert faces["melrvq (log-mel baseline)"] == STYLES[2][0]


def test_trained_codecs_carry_no_warning():
    assert "untrained" not in words(draw(make_study()))


def test_codecs_keep_their_look_whoever_else_is_drawn():
    def look(figure):
        lines = [line for line in figure.axes[0].get_lines() if line.get_marker() != "None"]
        return {line.get_label(): (line.get_color(), line.get_marker()) for line in lines}

    alone, together = look(draw(make_study(("melrvq",)))), look(draw(make_study(("encodec", "melrvq", "lyra"))))
    label = "melrvq (log-mel baseline)"
    assert alone[label] == together[label]
    assert len(set(together.values())) == len(together)
    assert len({colour for colour, _ in STYLES}) == len({marker for _, marker in STYLES}) == len(STYLES)


def test_intervals_are_bands_only_where_known():
    with_band = draw(make_study(("encodec",), intervals=True)).axes[0]
    assert len(with_band.collections) == 1
    corners = with_band.collections[0].get_paths()[0].vertices
    first = make_study(("encodec",), intervals=True)[0]
    assert {round(y, 9) for x, y in corners if x == 1} == {
        round(first[f"accuracy_{end}"], 9) for end in ("low", "high")
    }
    assert len(draw(make_study(("encodec",))).axes[0].collections) == 0


def test_missing_layer_is_a_gap():
    records = [r for r in make_study(("encodec",)) if r["layer"] != 4]
    drawn = curves(draw(records).axes[0])["EnCodec (pretrained)"]
    assert math.isnan(drawn[4])
    assert all(math.isfinite(value) for layer, value in drawn.items() if layer != 4)


def test_many_layers_get_a_logarithmic_axis_from_one():
    axis = draw(make_study(("melrvq", "lyra"))).axes[1]
    assert [int(tick) for tick in axis.get_xticks()] == [1, 2, 4, 8, 16, 32, 46]
    assert "logarithmic" in axis.get_xlabel()
    assert len(curves(axis)["lyra (pretrained)"]) == 46


def test_other_representations_are_curves_of_their_own():
    records = [make_record(layer=n, representation=r) for n in (1, 2) for r in ("codeword", "cumulative")]
    axis = draw(records).axes[0]
    assert set(curves(axis)) == {"EnCodec (pretrained)", "EnCodec (pretrained), cumulative"}


def unscored(outcome, reason):
    return make_record(task="speaker", outcome=outcome, reason=reason, accuracy=None, macro_f1=None)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "there is no record of this task"),
        ([unscored("not_applicable", "one speaker only")], "one speaker only"),
        ([unscored("non_finite", None)], "every probe ended without a finite score"),
    ],
)
def test_task_without_scores_says_why(tmp_path, records, said):
    figure = draw([make_record(), *records], "speaker")
    assert f"No scores to draw: {said}" in words(figure)
    assert not figure.axes
    assert [p.name for p in write_figures(records, tmp_path)] == NAMES


def test_pyplot_is_not_touched(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figures([make_record()], tmp_path)
    assert dict(matplotlib.rcParams) == before
    from matplotlib import _pylab_helpers

    assert _pylab_helpers.Gcf.get_all_fig_managers() == []
