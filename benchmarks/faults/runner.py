"""The process under attack: the command line, with a small codec known to it, its steps told and faults put under it.

    python -m benchmarks.faults.runner --steps-fd FD --shard-utterances 3 [--pause-ms 20] ... -- build-store ...

What it patches is what no option offers: nothing of what it is there to try.
"""

import argparse
import dataclasses
import resource
import signal
from typing import Any

from benchmarks.faults import small_codec
from benchmarks.faults.bad_reads import BadReads
from benchmarks.faults.steps import StepLog, log_steps


def main() -> None:
    """Prepare this process and run the command."""
    arguments = _arguments()
    # what a background shell starts inherits "ignore SIGINT", and Python leaves it so
    signal.signal(signal.SIGINT, signal.default_int_handler)
    small_codec.register(arguments.pause_ms / 1000)
    _use_small_shards(arguments.shard_utterances)
    if not arguments.with_torch:
        _leave_torch_alone()
    limit_bytes = arguments.file_limit_bytes
    log = StepLog(arguments.steps_fd, None if limit_bytes is None else lambda: _limit_files(limit_bytes))
    log_steps(log)
    if arguments.bad_reads_seed is not None:
        BadReads(arguments.bad_reads_seed, arguments.bad_reads_share, log).install()

    import cli

    cli.main([text for text in arguments.command if text != "--"], prog_name="rvqprobe")


def _use_small_shards(n_utterances: int) -> None:
    """Have builds cut into shards of `n_utterances`: there is no option for it, and 32 are a whole corpus here."""
    from featstore import plan

    plan_build = plan.plan_build

    def with_small_shards(options: Any) -> Any:
        return plan_build(dataclasses.replace(options, shard_utterances=n_utterances))

    plan.plan_build = with_small_shards


def _leave_torch_alone() -> None:
    """Answer what the build asks torch, which takes seconds to load and which the small codec does not use."""
    from featstore.codecs import device

    device.choose_device = lambda name: "cpu"
    device.describe_device = lambda name: "cpu, 1 threads"


def _limit_files(n_bytes: int) -> None:
    """Let no file grow beyond `n_bytes`; Python ignores the signal, so that writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps-fd", type=int, required=True, help="file descriptor to which steps are told")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="before each utterance, by the small codec")
    parser.add_argument("--shard-utterances", type=int, required=True)
    parser.add_argument("--with-torch", action="store_true", help="for codecs that need it")
    parser.add_argument("--file-limit-bytes", type=int, help="from the first step on, no file grows larger")
    parser.add_argument("--bad-reads-seed", type=int, help="let audio and TextGrid files fail")
    parser.add_argument("--bad-reads-share", type=float, default=0.15)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


if __name__ == "__main__":
    main()
