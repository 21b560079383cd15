"""What to probe and how: the options of ``cli.py probe``."""

from collections.abc import Sequence
from dataclasses import dataclass

from probes.errors import WrongUsageError
from probes.held_out import EvalBy
from probes.problem import FitOptions
from probes.questions import Settings
from probes.representation import REPRESENTATIONS, Representation
from probes.scores import Scoring
from probes.tasks import Phones


@dataclass(frozen=True)
class ProbeOptions:
    """What to probe and how; see ``cli.py probe --help``. Empty `codecs`, `layers`, `tasks` mean all.

    `max_train_frames`: size of the sample to fit on, drawn by `seed`; None takes every frame.
    `n_workers`: processes that count and fit; None chooses by the cores and the work.
    `n_threads`: threads that share a cumulative or concat fit; None is one for each core that processes leave.
    `device`: where `exact` and `sklearn` fit classifications; ``auto`` is the CPU. `cuml` takes the GPU by itself.

    Raises
    ------
    WrongUsageError
        For options that make no sense together.
    """

    backend: str = "auto"
    representation: Representation = "codeword"
    max_train_frames: int | None = None
    rows: str = "collapsed"
    codecs: Sequence[str] = ()
    layers: Sequence[int] = ()
    tasks: Sequence[str] = ()
    phones: Phones = "raw"
    keep_silence: bool = True
    standardize: bool = True
    class_weight: str = "balanced"
    max_iter: int | None = None
    tol: float | None = None
    require_gpu: bool = False
    eval_by: EvalBy = "utterance"
    n_bootstrap: int = 0
    n_permutations: int = 0
    seed: int = 0
    n_workers: int | None = 1
    n_threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what would be ignored in silence."""
        if self.representation not in REPRESENTATIONS:
            raise WrongUsageError(
                f"--representation {self.representation}: expected one of {', '.join(REPRESENTATIONS)}"
            )
        if self.max_train_frames is not None and self.max_train_frames < 1:
            raise WrongUsageError(f"--max-train-frames {self.max_train_frames}: expected at least one frame")
        if self.representation == "codeword":
            if self.max_train_frames is not None:
                raise WrongUsageError(
                    "--max-train-frames: codeword probes are fitted from counts, which cost the same for every frame "
                    "of the store; drop it, or choose --representation cumulative, concat or latent"
                )
        elif self.n_permutations:
            raise WrongUsageError(
                f"--n-permutations: the mutual information is that of single codes, and {self.representation} probes "
                "have none; drop it, or choose --representation codeword"
            )
        if self.representation == "latent" and self.layers:
            raise WrongUsageError("--layer: latents are the encoder's output before all layers; drop it")
        self._check_places()

    def _check_places(self) -> None:
        passes_over_frames = self.representation in ("cumulative", "concat") and self.backend in ("auto", "exact")
        if self.n_threads is not None and not passes_over_frames:
            raise WrongUsageError(
                f"--threads {self.n_threads}: threads share the cumulative and concat probes of exact alone; drop it, "
                "or give processes by --workers"
            )
        if self.fit_device != "cpu" and self.backend == "cuml":
            raise WrongUsageError(f"--device {self.device}: cuml takes the GPU by itself; drop it")
        if self.device == "mps" and not passes_over_frames:
            raise WrongUsageError(
                "--device mps: has no float64, which all but the cumulative and concat probes of exact are fitted in; "
                "drop it"
            )
        if self.device == "cpu" and self.backend == "cuml":
            raise WrongUsageError("--device cpu: cuml is for GPUs; choose --backend sklearn")

    @property
    def settings(self) -> Settings:
        """The part that changes a probe's question."""
        return Settings(self.phones, self.keep_silence, self.standardize, self.class_weight)  # type: ignore[arg-type]

    @property
    def scoring(self) -> Scoring:
        """The part that adds to its scores."""
        return Scoring(self.n_bootstrap, self.n_permutations, self.seed)

    @property
    def fit_device(self) -> str:
        """Where exact and sklearn fit: no torch is loaded to find out what there is."""
        return "cpu" if self.device == "auto" else self.device

    @property
    def fits_tensors_by_sklearn(self) -> bool:
        """Whether scikit-learn will be given tensors, for which SciPy has to be told before it is imported."""
        return self.fit_device != "cpu" and (self.backend == "sklearn" or self.representation == "latent")

    @property
    def fit(self) -> FitOptions:
        """The part that changes how it is fitted; only single codewords repeat, so that rows collapse."""
        rows = self.rows if self.representation == "codeword" else "dense"
        return FitOptions(self.tol, self.max_iter, rows, self.fit_device)  # type: ignore[arg-type]
