"""How a benchmark ends that was asked for what there is not: in one clear line, before anything is timed."""

import sys
from collections.abc import Callable, Sequence

from featstore.store import Store
from probes.questions import NotApplicable
from schemas.errors import RvqprobeError


def run_clearly(main: Callable[[], None]) -> None:
    """Run a benchmark; an expected failure becomes one line on stderr and exit code 1."""
    try:
        main()
    except (RvqprobeError, NotApplicable, OSError) as error:
        sys.exit(f"Error: {error}")


def asked_codecs(store: Store, asked: Sequence[str] | None, last_layer: int) -> list[str]:
    """Return the codecs asked for, by default all in the store.

    Raises
    ------
    UnknownNameError
        When the store lacks one of them, or one of them that layer (counted from 1).
    """
    codecs = list(asked or store.codec_names)
    for codec in codecs:
        store[codec].layer(last_layer)
    return codecs
