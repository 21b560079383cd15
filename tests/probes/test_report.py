"""What a person reads: every number, what it is compared with, and what may not be concluded from it."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from probes.report import DRAWN, summary_markdown, summary_table, write_report
from probes.selection import latest_records, layer_ranges, series_of
from schemas.record import record_schema
from tests.support.records import make_record
from tests.support.study import make_study


def block(text, title):
    """The lines of one codec's block, split into cells."""
    (part,) = [part for part in text.split("\n\n") if part.startswith(title)]
    return [line.split() for line in part.splitlines()]


def write_report_text(records):
    with TemporaryDirectory() as folder:
        return write_report(records, Path(folder)).read_text(encoding="utf-8")


def not_applicable(layer, task="speaker", reason="one speaker only (4088): a speaker probe needs two"):
    return make_record(layer=layer, task=task, outcome="not_applicable", reason=reason, accuracy=None, macro_f1=None)


def test_table_holds_every_score_and_reference_within_100_columns():
    text = summary_table(make_study(("encodec", "melrvq")))
    assert max(map(len, text.splitlines())) <= 100
    records = {(r["layer"], r["task"]): r for r in make_study(("encodec",))}
    rows = block(text, "EnCodec (pretrained)")
    for layer in range(1, 9):
        phoneme, speaker, pitch = (records[layer, task] for task in ("phoneme", "speaker", "pitch"))
        scores = [f"{r[name]:.3f}" for r in (phoneme, speaker) for name in ("accuracy", "macro_f1")]
        assert [str(layer), *scores, f"{pitch['mae_hz']:.1f}", f"{pitch['r2']:.3f}"] in rows
    assert ["chance", "0.014", "0.011", "0.004", "0.003"] in rows
    assert ["majority", "0.100", "0.003", "0.100", "0.001"] in rows
    assert ["mean", "baseline", "42.5"] in rows
    assert ["train", "frames", "200,000", "200,000", "200,000"] in rows
    assert ["eval", "frames", "22,000", "22,000", "22,000"] in rows
    assert ["24", "probes:", "24", "converged"] in rows


def test_table_columns_line_up():
    text = summary_table(make_study(("encodec",)))
    lines = [line for line in text.splitlines() if re.match(r"\s+\d\s", line)]
    dots = {tuple(match.start() for match in re.finditer(r"\.", line)) for line in lines}
    assert len(lines) == 8
    assert len(dots) == 1


def test_codecs_stand_in_the_study_s_order_named_with_their_weights():
    records = make_study(("lyra", "melrvq", "speechtokenizer", "encodec"))
    titles = [series.title for series in series_of(records)]
    assert titles == [
        "EnCodec (pretrained)",
        "SpeechTokenizer (pretrained)",
        "melrvq (log-mel baseline)",
        "lyra (pretrained)",
    ]
    own = [make_record(weights="checkpoint"), make_record(representation="cumulative", weights="checkpoint")]
    assert [s.title for s in series_of(own)] == ["EnCodec (own checkpoint)", "EnCodec (own checkpoint), cumulative"]


@pytest.mark.parametrize("render", [summary_table, write_report_text])
def test_untrained_codecs_are_labelled_and_the_baseline_is_not_a_control(render):
    text = " ".join(render([make_record(weights="untrained"), make_record("melrvq", weights="untrained")]).split())
    assert "EnCodec (untrained control)" in text
    assert "untrained weights: control, not the codec's result (EnCodec)" in text
    assert "melrvq (log-mel baseline)" in text
    assert "control" not in render([make_record("melrvq", weights="untrained")])
    assert "control" not in render([make_record(weights="pretrained")])


def test_not_applicable_is_shown_with_its_reason_beside_the_other_tasks():
    records = [make_record(layer=layer) for layer in (1, 2, 3, 5)] + [not_applicable(layer) for layer in (1, 2, 3, 5)]
    text = summary_table(records)
    assert ["1", "0.312", "0.250", "n/a", "n/a", "-", "-"] in block(text, "EnCodec")
    assert "8 probes: 4 converged, 4 not_applicable" in text
    assert "n/a: speaker, layers 1-3, 5: one speaker only (4088): a speaker probe needs two" in text
    assert "n/a: speaker" in summary_markdown(records)
    one = summary_table([not_applicable(3)])
    assert "1 probe: 1 not_applicable" in one
    assert "n/a: speaker, layer 3: one speaker" in one


def test_unconverged_fit_is_starred_and_explained():
    text = summary_table([make_record(outcome="iteration_limit", reason="1000 iterations"), make_record(layer=2)])
    rows = block(text, "EnCodec")
    assert ["1", "0.312*", "0.250*", "-", "-", "-", "-"] in rows
    assert ["2", "0.312", "0.250", "-", "-", "-", "-"] in rows
    assert "the fit did not converge" in text
    assert "did not converge" not in summary_table([make_record()])


def test_largest_proved_gap_is_told_relative_to_the_objective():
    records = [
        make_record(layer=1, objective=2.0, gap_bound=6e-9),
        make_record(layer=2, objective=0.5, gap_bound=2e-9),  # the smaller bound, but the larger share
        make_record(layer=3, objective=1.0),
        not_applicable(1),
    ]
    said = "largest proved gap to the minimum: 4e-09 of the objective (2 of 3 fits have a proof)"
    assert said in summary_table(records)
    assert said in summary_markdown(records)
    assert "proved gap" not in summary_table([make_record(objective=1.0)])
    assert "to the minimum: 0 of" in summary_table([make_record(objective=0.0, gap_bound=0.0)])
    assert "to the minimum: inf of" in summary_table([make_record(objective=0.0, gap_bound=1e-9)])


def test_score_that_is_not_finite_is_a_dash():
    assert ["1", "-*", "-*", "-", "-", "-", "-"] in block(
        summary_table([make_record(outcome="non_finite", accuracy=None, macro_f1=None)]), "EnCodec"
    )


def test_latest_record_wins_and_that_is_said():
    old, new = make_record(accuracy=0.1, C=1.0), make_record(accuracy=0.9, C=10.0)
    other = make_record(representation="cumulative", accuracy=0.5)
    assert latest_records([old, other, new]) == [new, other]
    text = summary_table([old, other, new])
    assert "0.900" in text
    assert "0.100" not in "".join(line for line in text.splitlines() if line.strip().startswith("1 "))
    assert "3 records, of which 1 older one is not shown" in text
    assert "4 records, of which 2 older ones are not shown" in " ".join(summary_table([old, old, other, new]).split())
    assert "older" not in summary_table([new, other])


def test_several_settings_in_what_is_shown_are_named():
    text = " ".join(summary_table([make_record(layer=1, C=1.0), make_record(layer=2, C=0.5, tol=1e-4)]).split())
    assert "Several settings stand side by side in what is shown (C: 1.0, 0.5; tol: default, 0.0001)" in text
    # Each task has settings of its own; that is no mixture.
    assert "settings" not in summary_table([make_record(), make_record(task="pitch"), make_record(task="speaker")])


def test_frames_that_differ_between_layers_are_not_passed_off_as_one_number():
    rows = block(summary_table([make_record(layer=1), make_record(layer=2, n_train=5)]), "EnCodec")
    assert ["train", "frames", "varies"] in rows


def test_fallback_and_unseen_labels_are_told():
    record = make_record(backend_asked="cuml", backend_used="sklearn", fallback_reason="no usable GPU", n_unseen=1234)
    text = summary_table([record])
    assert "cuml was asked, sklearn used: no usable GPU" in text
    assert "1,234 evaluation frames left out" in text


def test_no_records():
    assert summary_table([]) == "no records yet"
    assert summary_markdown([]) == "No records yet."
    assert "No records yet." in write_report_text([])


def test_markdown_tables_are_rectangular_and_show_intervals():
    text = summary_markdown(make_study(intervals=True))
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 3 * (2 + 8 + 5)
    assert {line.count("|") for line in tables} == {8}
    assert re.search(r"\| 1 \| 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \|", text)


def test_text_from_other_hands_does_not_break_the_markdown():
    text = summary_markdown([not_applicable(1, reason="label `a|b` <script>\nsecond line")])
    assert r"a\|b" in text
    assert r"\<script>" in text
    assert "\nsecond line" not in text


def test_report_has_notes_tables_settings_versions_and_links_that_resolve(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/phoneme_probing.png").write_bytes(b"")
    (tmp_path / "figures/phoneme_probing.pdf").write_bytes(b"")
    path = write_report(make_study(), tmp_path)
    assert path == tmp_path / "report.md"
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links == ["figures/phoneme_probing.png", "figures/phoneme_probing.pdf"]
    assert all((tmp_path / link).is_file() for link in links)
    assert "speaker scores measure the recording session too" in text
    assert "scores on unseen speakers (--eval-by speaker) would be lower" in text
    assert "accuracy may lie below the majority class's" in text
    assert "not like for like" in text
    assert "| numpy version | 2.4.0 |" in text
    assert f"| content_digest | {'cd' * 32} |" in text
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert write_report(make_study(), tmp_path).read_text(encoding="utf-8") == text


def test_figure_of_a_task_the_report_is_not_about_is_not_shown(tmp_path):
    (tmp_path / "figures").mkdir()
    for task in ("phoneme", "pitch"):
        (tmp_path / f"figures/{task}_probing.png").write_bytes(b"")
    text = write_report([make_record(task="pitch")], tmp_path).read_text(encoding="utf-8")
    assert "figures/pitch_probing.png" in text
    assert "phoneme_probing" not in text


def resampled_study():
    unit = {"phoneme": "speaker", "speaker": "utterance within speaker", "pitch": "speaker"}
    return [
        r | {"n_bootstrap": 1000, "bootstrap_unit": unit[r["task"]]} for r in make_study(("encodec",), intervals=True)
    ]


def test_report_says_what_its_intervals_are_over(tmp_path):
    text = " ".join(write_report(resampled_study(), tmp_path).read_text(encoding="utf-8").split())
    assert "95 % percentile bootstrap intervals over the evaluation part" in text
    assert "phoneme and pitch: whole speakers are drawn, with all their utterances, 1,000 resamples" in text
    assert "speaker: whole utterances are drawn within each speaker, 1,000 resamples" in text
    assert "conditional on the fitted probe" in text
    assert "comparisons.csv" not in text


def test_report_links_the_comparisons_where_there_are_some(tmp_path):
    (tmp_path / "comparisons.csv").write_text("task\n")
    text = write_report(resampled_study(), tmp_path).read_text(encoding="utf-8")
    assert "[comparisons.csv](comparisons.csv)" in text
    assert "not corrected" in text


def test_every_unit_of_the_schema_has_words():
    units = record_schema()["properties"]["bootstrap_unit"]["enum"]
    assert set(DRAWN) == set(units) - {None}


def test_report_without_intervals_says_nothing_of_uncertainty(tmp_path):
    (tmp_path / "comparisons.csv").write_text("task\n")
    text = write_report(make_study(), tmp_path).read_text(encoding="utf-8")
    assert "Uncertainty" not in text
    assert "comparisons.csv" not in text


def test_notes_speak_only_of_what_is_there():
    text = write_report_text([make_record(task="phoneme")])
    assert "recording session" not in text
    assert "not like for like" not in text


def test_layer_ranges():
    assert layer_ranges([3, 1, 2, 7, 9, 10, 2]) == "1-3, 7, 9-10"


def test_report_sets_scores_beside_lookup_oracle_and_information(tmp_path):
    known = {
        "lookup_accuracy": 0.41,
        "lookup_macro_f1": 0.3,
        "oracle_accuracy": 0.5,
        "mutual_information_bits": None,
        "v_information_bits": -0.25,
    }
    records = [make_record(layer=1, **known), make_record(layer=2), make_record(layer=1, task="pitch")]
    text = write_report(records, tmp_path).read_text(encoding="utf-8")
    section = text.split("## What the scores are read against")[1].split("## Settings")[0]
    assert "| layer | phoneme lookup acc | phoneme lookup F1 | phoneme oracle acc | phoneme I | phoneme V |" in section
    assert "| 1 | 0.410 | 0.300 | 0.500 |  | -0.25 |" in section
    assert "| 2 |  |  |  |  |  |" in section
    assert "pitch lookup" not in section
    nothing = write_report([make_record()], tmp_path).read_text(encoding="utf-8")
    assert "read against" not in nothing


def test_report_says_when_speakers_were_unseen(tmp_path):
    text = write_report([make_record(eval_by="speaker")], tmp_path).read_text(encoding="utf-8")
    assert "speakers that training never heard" in text
    assert "share their speakers" not in text


def test_places_of_layers_together_and_of_latents():
    for name, places in (("cumulative", ["1", "1..2"]), ("concat", ["1", "1..2"]), ("latent", ["encoder"])):
        layers = [None] if name == "latent" else [1, 2]
        records = [make_record(layer=layer, representation=name, v_information_bits=0.5) for layer in layers]
        lines = block(summary_table(records), f"EnCodec (pretrained), {name}: 75 frames/s")
        assert [line[0] for line in lines if line[1:2] == ["0.312"]] == places
        text = write_report_text(records)
        assert [text.count(f"\n| {place} | ") for place in places] == [2] * len(places)  # scores, and what beside them
    assert "128 dimensions a layer" in summary_table([make_record(representation="concat")])


def test_report_says_what_a_layer_stands_for_and_what_was_sampled():
    def notes(*representations, **changes):
        return write_report_text(
            [make_record(layer=None if r == "latent" else 2, representation=r, **changes) for r in representations]
        )

    words = {
        "codeword": "A layer's embedding is its own codebook row",
        "cumulative": "stands for the sum of the codebook rows of RVQ layers 1 to m",
        "concat": "RVQ layers 1 to m side by side",
        "latent": "the encoder's output before quantisation",
    }
    for name in words:
        text = notes(name)
        assert [other for other, sentence in words.items() if sentence in text] == [name]
        assert "--max-train-frames" not in text
    everything = notes(*words, max_train_frames=50_000)
    assert all(sentence in everything for sentence in words.values())
    assert "a seeded sample of at most 50,000 was asked for (--max-train-frames)" in everything
    assert "| max_train_frames | 50000 |" in everything


def test_a_latent_task_that_cannot_be_asked_names_no_layer():
    record = not_applicable(None) | {"representation": "latent"}
    assert "n/a: speaker: one speaker only" in summary_table([record])
