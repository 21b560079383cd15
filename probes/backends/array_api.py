"""scikit-learn on a device of torch, through the array API: rows live there, L-BFGS itself stays on the processor.

Only ``LogisticRegression(solver="lbfgs")`` takes tensors, in scikit-learn 1.9; it honours sample weights, in
float64. SciPy decides when it is imported whether it takes them too, by the variable SCIPY_ARRAY_API.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.torch_device import torch_device
from probes.errors import BackendError
from probes.torch_errors import device_errors

SWITCH = "SCIPY_ARRAY_API"


def fit_on_device(model: Any, rows: tuple[NDArray[Any] | None, ...], device: str) -> None:
    """Fit a ``LogisticRegression`` by L-BFGS on tensors; its attributes are NumPy arrays again afterwards.

    Parameters
    ----------
    model : LogisticRegression
    rows : (float64 array (n_rows, dim), int64 array (n_rows,), float64 array (n_rows,) or None)
        X, y and their weights.
    device : str
        A device of torch that has float64.

    Raises
    ------
    FeatstoreError
        When torch or the device is not there.
    BackendError
        When this scikit-learn takes no tensors, SciPy was imported without `SWITCH`, or the device fails.
    """
    there = torch_device(device)
    import torch
    from sklearn import __version__, config_context
    from sklearn.utils import get_tags

    model.set_params(solver="lbfgs")
    if not getattr(get_tags(model), "array_api_support", False):
        raise BackendError(
            f"--device {device}: LogisticRegression of scikit-learn {__version__} takes no tensors; install 1.9 or "
            "newer, or use --device cpu"
        )
    if os.environ.get(SWITCH) != "1":
        raise BackendError(f"--device {device}: set {SWITCH}=1 before Python starts, for SciPy to take tensors")
    with device_errors(there, "the rows of this probe", "use --device cpu"), config_context(array_api_dispatch=True):
        X, y, weights = (None if part is None else torch.from_numpy(part).to(there) for part in rows)
        model.fit(X, y, sample_weight=weights)
    for name in ("coef_", "intercept_", "n_iter_", "classes_"):
        setattr(model, name, np.asarray(getattr(model, name).cpu()))
