"""Whether the parts of a merge are all that their builds were split into."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.wording import counted

_SHARD_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.h5")
_N_NAMED = 8


def missing_shards(paths: Iterable[Path]) -> list[str]:
    """Return a warning for each set of shards, told by their names, of which some are not among `paths`."""
    found: dict[tuple[Path, int], dict[int, Path]] = defaultdict(dict)
    for path in paths:
        name = _SHARD_NAME.fullmatch(path.name)
        if name:
            found[path.parent, int(name[2])][int(name[1])] = path
    warnings = []
    for (folder, n_shards), there in found.items():
        missing = [str(index) for index in range(1, n_shards + 1) if index not in there]
        if missing:
            named = ", ".join(missing[:_N_NAMED]) + (", ..." if len(missing) > _N_NAMED else "")
            warnings.append(
                f"{folder}: {counted(len(missing), 'shard')} of {n_shards} not given ({named}); "
                "the merged store lacks their utterances"
            )
    return warnings


def missing_utterances(corpora: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], int]]) -> list[str]:
    """Return a warning for each corpus of which the parts hold less than their builds were asked for.

    Parameters
    ----------
    corpora : sequence of (corpus, build_options, n_utterances)
        Of each part: two root attributes, and how many utterances it holds or lists as skipped.
    """
    sums: dict[tuple[str, int], int] = defaultdict(int)
    for corpus, options, n_utterances in corpora:
        n_scanned = corpus.get("n_scanned")
        if isinstance(n_scanned, int):  # a store that was merged from several corpora does not say
            n_asked = min(options.get("max_utterances") or n_scanned, n_scanned)
            sums[str(corpus.get("split")), n_asked] += n_utterances
    return [
        f"the parts hold {n_found:,} of {counted(n_asked, 'utterance')} that were to be built of {split}: "
        "the merged store is not the whole"
        for (split, n_asked), n_found in sums.items()
        if n_found < n_asked
    ]
