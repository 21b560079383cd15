"""The figures show every score, gap and baseline they were given, and say what the weights are."""

import math

import pytest

from probes.figures import STYLES, draw_task, write_figures
from probes.reference_lines import REFERENCE_COLOUR
from probes.selection import series_of
from tests.support.records import make_record
from tests.support.study import make_study

NAMES = [f"{task}_probing.{suffix}" for task in ("phoneme", "speaker", "pitch") for suffix in ("png", "pdf")]


def draw(records, task="phoneme"):
    return draw_task(series_of(records), task)


def lines_of(axis):
    """(label, {layer: value}) of every line that has markers; a curve may consist of several."""
    lines = [line for line in axis.get_lines() if line.get_marker() != "None"]
    return [(line.get_label(), dict(zip(map(int, line.get_xdata()), line.get_ydata(), strict=True))) for line in lines]


def curves(axis):
    """Label -> {layer: value} of curves that are one line each."""
    assert len(lines_of(axis)) == len(dict(lines_of(axis)))
    return dict(lines_of(axis))


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


def test_baselines_the_eye_can_tell_apart_have_the_colour_and_name_of_their_codec():
    mean_mae_hz = {"encodec": 42.5, "speechtokenizer": 40.0, "melrvq": 40.0}
    records = [make_record(codec, task="pitch", mean_baseline_mae_hz=value) for codec, value in mean_mae_hz.items()]
    figure = draw(records, "pitch")
    mae, r2 = figure.axes
    baselines = [line for line in mae.get_lines() if line.get_label() == "mean baseline"]
    colours = {line.get_ydata()[0]: line.get_color() for line in baselines}
    assert colours == {42.5: STYLES[0][0], 40.0: REFERENCE_COLOUR}
    assert {note.get_text(): note.xy[1] for note in mae.texts} == {"EnCodec": 42.5, "SpeechTokenizer, melrvq": 40.0}
    assert [note.get_text() for note in r2.texts] == []
    assert legend_names(figure)[-1] == "mean baseline"
    assert figure.legends[0].legend_handles[-1].get_color() == REFERENCE_COLOUR


def test_baselines_the_eye_cannot_tell_apart_are_not_named():
    records = [make_record(majority_accuracy=0.100), make_record("melrvq", majority_accuracy=0.101)]
    axis = draw(records).axes[0]
    assert {value for name, value in references(axis) if name == "majority class"} == {0.1, 0.101}
    assert [note.get_text() for note in axis.texts] == []


def test_lines_break_where_settings_change_and_a_note_names_these():
    records = [
        make_record(layer=n, class_weight="balanced" if n < 4 else "none", accuracy=0.1 * n) for n in range(1, 6)
    ]
    figure = draw([*records, make_record("melrvq", 1), make_record("melrvq", 2)])
    pieces = [line for label, line in lines_of(figure.axes[0]) if label == "EnCodec (pretrained)"]
    assert [list(piece) for piece in pieces] == [[1, 2, 3], [4, 5]]
    assert pieces[1] == {4: records[3]["accuracy"], 5: records[4]["accuracy"]}
    assert "Several settings (class_weight): lines break where they change, see report.md" in words(figure)
    assert legend_names(figure).count("EnCodec (pretrained)") == 1
    assert "Several settings" not in words(draw(make_study()))


def test_codecs_from_stores_of_their_own_are_no_mixture_of_settings():
    figure = draw([make_record(content_digest="ab" * 32), make_record("melrvq", content_digest="cd" * 32)])
    assert "Several settings" not in words(figure)
    mixed = draw([make_record(content_digest="ab" * 32), make_record(layer=2, content_digest="cd" * 32)])
    assert "Several settings (content_digest)" in words(mixed)
    assert len(lines_of(mixed.axes[0])) == 2


def test_fits_that_did_not_converge_are_crossed_out_and_explained():
    records = [make_record(layer=n, outcome="stalled" if n == 2 else "converged", accuracy=0.1 * n) for n in (1, 2, 3)]
    figure = draw([*records, make_record(layer=4, outcome="non_finite", accuracy=None, macro_f1=None)])
    drawn = curves(figure.axes[0])
    assert drawn["did not converge"] == {2: 0.2}
    assert [value for value in drawn["EnCodec (pretrained)"].values() if math.isfinite(value)] == [
        r["accuracy"] for r in records
    ]
    assert legend_names(figure) == ["EnCodec (pretrained)", "did not converge", "chance", "majority class"]
    assert "did not converge" not in words(draw([make_record()]))


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


def bars(axis):
    """One {layer: (low, high)} for each codec that has intervals, in the order of drawing."""
    return [{round(x): (low, high) for (x, low), (_, high) in lines.get_segments()} for lines in axis.collections]


def test_intervals_are_bars_at_their_layers_only_where_known():
    records = make_study(("encodec", "speechtokenizer"), intervals=True) + make_study(("melrvq",))
    records = [r | {"macro_f1_low": None} if (r["codec"], r["layer"]) == ("encodec", 3) else r for r in records]
    figure = draw(records)
    for axis, metric in zip(figure.axes, ("accuracy", "macro_f1"), strict=True):
        drawn = bars(axis)
        for found, codec in zip(drawn, ("encodec", "speechtokenizer"), strict=True):
            known = [r for r in records if (r["codec"], r["task"]) == (codec, "phoneme")]
            ends = {r["layer"]: (r[f"{metric}_low"], r[f"{metric}_high"]) for r in known}
            assert found == {layer: pair for layer, pair in ends.items() if None not in pair}
        assert (3 in drawn[0]) == (metric == "accuracy")
    assert legend_names(figure)[-1] == "95 % interval"


def test_bars_of_codecs_stand_side_by_side_but_at_the_layer_itself_on_a_logarithmic_axis():
    def first_places(codecs):
        axis = draw(make_study(codecs, intervals=True)).axes[0]
        return [float(lines.get_segments()[0][0, 0]) for lines in axis.collections]

    assert first_places(("encodec", "speechtokenizer", "melrvq")) == pytest.approx([0.91, 1.0, 1.09])
    assert first_places(("melrvq", "lyra")) == [1.0, 1.0]


def test_without_intervals_there_is_no_bar_and_no_word_of_one():
    figure = draw(make_study())
    assert [bars(axis) for axis in figure.axes] == [[], []]
    assert "95 % interval" not in legend_names(figure)


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
        ([unscored("not_applicable", "one speaker only")], "one speaker only"),
        ([unscored("non_finite", None)], "every probe ended without a finite score"),
    ],
)
def test_task_without_scores_says_why(tmp_path, records, said):
    figure = draw([make_record(), *records], "speaker")
    assert f"No scores to draw: {said}" in words(figure)
    assert not figure.axes
    assert [p.name for p in write_figures(records, tmp_path)] == ["speaker_probing.png", "speaker_probing.pdf"]


def test_task_that_was_not_asked_gets_no_figure(tmp_path):
    paths = write_figures([make_record(task="pitch"), make_record(task="phoneme")], tmp_path)
    assert [path.name for path in paths] == [name for name in NAMES if not name.startswith("speaker")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert write_figures([], tmp_path / "none") == []


def test_pyplot_is_not_touched(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figures([make_record()], tmp_path)
    assert dict(matplotlib.rcParams) == before
    from matplotlib import _pylab_helpers

    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def test_the_layer_axis_says_what_a_layer_stands_for():
    expected = {
        "codeword": "RVQ layer",
        "cumulative": "RVQ layers 1 to m, summed",
        "concat": "RVQ layers 1 to m, side by side",
    }
    for name, label in expected.items():
        figure = draw([make_record(layer=n, representation=name) for n in (1, 2)])
        assert figure.axes[1].get_xlabel() == label
        title = "EnCodec (pretrained)" + ("" if name == "codeword" else f", {name}")
        assert legend_names(figure)[0] == title
        assert set(curves(figure.axes[0])[title]) == {1, 2}


def test_latents_are_level_lines_over_all_layers():
    latent = make_record(layer=None, representation="latent", accuracy=0.7, accuracy_low=0.6, accuracy_high=0.8)
    alone = draw([latent])
    assert alone.axes[1].get_xlabel() == "encoder output, before all RVQ layers"
    assert ("EnCodec (pretrained), latent", 0.7) in references(alone.axes[0])
    assert legend_names(alone)[-1] == "95 % interval of latents"
    together = draw([latent, make_record(layer=1), make_record(layer=2)])
    assert ("EnCodec (pretrained), latent", 0.7) in references(together.axes[0])
    assert set(curves(together.axes[0])["EnCodec (pretrained)"]) == {1, 2}
    assert together.axes[1].get_xlabel() == "RVQ layer"


def test_the_legend_shows_bars_for_layers_and_a_band_for_latents():
    def keys(*records):
        figure = draw(records)
        return {
            name: type(handle).__name__
            for name, handle in zip(legend_names(figure), figure.legends[0].legend_handles, strict=True)
            if "interval" in name
        }

    ends = {"accuracy_low": 0.2, "accuracy_high": 0.4}
    latent = make_record(layer=None, representation="latent", **ends)
    bar, band = {"95 % interval": "Line2D"}, {"95 % interval of latents": "Rectangle"}
    assert keys(latent) == band
    assert keys(make_record(**ends)) == bar
    assert keys(make_record(**ends), latent) == bar | band
    assert keys(make_record()) == {}


@pytest.mark.parametrize("codecs", [("encodec",), ("lyra",)])  # the second on a logarithmic axis
def test_latents_that_did_not_converge_are_crossed_at_both_ends_of_their_line(codecs):
    look = {"layer": None, "representation": "latent"}
    records = [
        make_record("encodec", accuracy=0.7, outcome="iteration_limit", **look),
        make_record("melrvq", accuracy=0.6, **look),
        *make_study(codecs),
    ]
    figure = draw(records)
    axis = figure.axes[0]
    (crosses,) = [line for line in axis.get_lines() if line.get_label() == "did not converge"]
    assert list(crosses.get_ydata()) == [0.7, 0.7]
    left, right = axis.transAxes.inverted().transform(crosses.get_transform().transform(crosses.get_xydata()))[:, 0]
    assert left < 0.05 < 0.95 < right
    assert "did not converge" in legend_names(figure)
    assert "did not converge" not in legend_names(draw(records[1:]))


def test_several_representations_are_told_by_line_style_in_few_rows_and_a_taller_figure():
    names = ("codeword", "cumulative", "concat")
    records = [
        make_record(codec, layer, representation=name, rows="collapsed" if name == "codeword" else "dense")
        for codec in ("encodec", "speechtokenizer", "melrvq")
        for name in names
        for layer in (1, 2)
    ]
    figure = draw(records)
    assert legend_names(figure) == [
        "EnCodec (pretrained)",
        "SpeechTokenizer (pretrained)",
        "melrvq (log-mel baseline)",
        "codeword: layer m alone",
        "cumulative: sum of layers 1 to m",
        "concat: layers 1 to m side by side",
        "chance",
        "majority class",
    ]
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].get_lines()}
    keys = dict(zip(legend_names(figure), figure.legends[0].legend_handles, strict=True))
    for name, title in zip(names, ("", ", cumulative", ", concat"), strict=True):
        key = next(handle for label, handle in keys.items() if label.startswith(f"{name}:"))
        assert styles[f"EnCodec (pretrained){title}"] == key.get_linestyle()
    assert len({key.get_linestyle() for label, key in keys.items() if ":" in label}) == 3
    assert figure.get_figheight() > draw(records[:2]).get_figheight()
    assert "Several settings" not in words(figure)  # which rows can fit hangs on the representation


def test_a_sample_beside_all_frames_breaks_the_line_and_is_named():
    records = [
        make_record(layer=n, representation="concat", max_train_frames=None if n < 3 else 50) for n in range(5)[1:]
    ]
    figure = draw(records)
    assert [list(piece) for _, piece in lines_of(figure.axes[0])] == [[1, 2], [3, 4]]
    assert "Several settings (max_train_frames)" in words(figure)


def test_names_of_neighbouring_baselines_are_written_as_one():
    mean_mae_hz = {"encodec": 42.5, "speechtokenizer": 39.1, "melrvq": 39.2}
    records = [make_record(codec, task="pitch", mean_baseline_mae_hz=value) for codec, value in mean_mae_hz.items()]
    notes = draw(records, "pitch").axes[0].texts
    assert {note.get_text(): note.xy[1] for note in notes} == {"EnCodec": 42.5, "SpeechTokenizer, melrvq": 39.1}
    apart = [make_record(majority_accuracy=0.10), make_record("melrvq", majority_accuracy=0.11)]
    axis = draw(apart).axes[0]
    assert [note.get_text() for note in axis.texts] == []
    assert {line.get_color() for line in axis.get_lines() if line.get_label() == "majority class"} == {
        STYLES[0][0],
        STYLES[2][0],
    }
