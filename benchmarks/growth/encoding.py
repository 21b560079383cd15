"""One long build: seconds and memory as its audio goes by."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.building.corpus import Corpus, build_options
from benchmarks.measure.command import descendants, memory_measure, process_bytes
from featstore.build import build_store
from featstore.plan import plan_build
from featstore.workers import choose_workers

N_PARTS = 5


def measure_encoding(names: Sequence[str], corpus: Corpus, folder: Path) -> dict[str, Any]:
    """Return the time of each fifth of a build's audio, and the memory of its processes at the end of it.

    The clock starts with the first encoded utterance.
    """
    n_workers = choose_workers(None, corpus.n_utterances, "cpu")
    options = build_options(corpus, folder / "encoding" / "store.h5", names, n_workers)
    plan = plan_build(options)
    audio_s = [_duration_s(utterance.audio_path) for utterance in plan.utterances]
    passed = _Passed(audio_s)
    build_store(plan, passed.note)
    return {
        "speech": corpus.kind,
        "codecs": list(names),
        "n_workers": n_workers,
        "n_utterances": len(audio_s),
        "audio_minutes": round(sum(audio_s) / 60, 2),
        "memory_measure": passed.measure,
        "parts": passed.parts,
        "last_to_first": round(passed.parts[0]["times_real_time"] / passed.parts[-1]["times_real_time"], 3),
    }


class _Passed:
    """Notes what has gone by whenever another fifth of the audio is encoded."""

    def __init__(self, audio_s: Sequence[float]) -> None:
        self._audio_s = audio_s
        self._done = self._at_last = 0
        self._last_s = 0.0
        self.measure = memory_measure()
        self.parts: list[dict[str, float]] = []

    def note(self, done: int, total: int, what: str, note: str = "", /) -> None:
        """Take a build's progress: utterances done."""
        if what != "encode" or done <= self._done:
            return
        now_s = time.perf_counter()
        if not self._done:
            self._last_s, self._at_last = now_s, done
        self._done = done
        goal_s = sum(self._audio_s) * (len(self.parts) + 1) / N_PARTS
        if done == self._at_last or (sum(self._audio_s[:done]) < goal_s and done < total):
            return
        audio_s, seconds = sum(self._audio_s[self._at_last : done]), now_s - self._last_s
        n_bytes = sum(process_bytes(pid, self.measure) for pid in descendants(os.getpid()))
        self.parts.append(
            {
                "audio_minutes": round(sum(self._audio_s[:done]) / 60, 2),
                "seconds": round(seconds, 2),
                "times_real_time": round(audio_s / seconds, 3),
                "memory_gb": round(n_bytes / 1e9, 3),
            }
        )
        self._last_s, self._at_last = now_s, done


def _duration_s(path: Path) -> float:
    about = soundfile.info(str(path))
    return float(about.frames / about.samplerate)
