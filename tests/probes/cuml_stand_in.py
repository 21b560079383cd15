"""CuPy and cuML without a GPU: what `probes.backends.cuml` asks of them, with cuML's conventions and SciPy's solver.

Arrays on the "device" cannot be mixed up with those of the host, and count against a memory that may run out. cuML's
softmax fits ignore weights unless told to honour them; its binary ones scale the penalty by the rows; its stopping rule
and its 32-bit index are those of its source (26.10, cpp/src/glm/qn).
"""

import weakref
from types import ModuleType, SimpleNamespace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp


class OutOfMemoryError(MemoryError):
    """As CuPy names it."""


class Memory:
    """Device memory: what is taken, the most that ever was, and how much there is."""

    def __init__(self, capacity):
        self.capacity, self.used, self.peak = capacity, 0, 0

    def take(self, owner, n_bytes):
        if self.used + n_bytes > self.capacity:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes:,} bytes (allocated so far: {self.used:,})")
        self.used += n_bytes
        self.peak = max(self.peak, self.used)
        weakref.finalize(owner, self._give_back, n_bytes)

    def _give_back(self, n_bytes):
        self.used -= n_bytes


class DeviceArray:
    """An array that has to be fetched, and takes no host array where CuPy takes none."""

    def __init__(self, array, memory):
        memory.take(self, array.nbytes)
        self.on_device, self._memory = array, memory
        self.shape, self.dtype, self.flags = array.shape, array.dtype, array.flags

    def get(self):
        return self.on_device.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __getitem__(self, places):
        return DeviceArray(self.on_device[places.on_device], self._memory)

    def __setitem__(self, places, values):
        self.on_device[places] = values.on_device


def stand_in(
    gpu=True, error=None, honours=False, capacity=1 << 36, n_devices=1, during_fit=None, version="26.10", answer=None
):
    """An import function that gives stand-ins for cuml and cupy.

    `error`: what asking for a GPU raises; `during_fit`: called before a fit of more than ten rows; `answer`: intercepts
    that every multinomial fit returns.
    """
    memory = Memory(capacity)
    return {
        "cupy": cupy(gpu, error, memory, n_devices),
        "cuml": cuml(version, honours, memory, during_fit, answer),
    }.__getitem__


def failing(error, after=0):
    """A `during_fit` that raises from the fit after so many on."""
    fits = iter(range(after))

    def during_fit():
        if next(fits, None) is None:
            raise error

    return during_fit


def cupy(gpu, error, memory, n_devices):
    def is_available():
        if error:
            raise error
        return gpu

    module = ModuleType("cupy")
    module.__version__ = "14.0"
    module.memory = memory
    module.asarray = lambda array: DeviceArray(np.array(array), memory)
    module.empty = lambda shape, dtype, order: DeviceArray(np.empty(shape, dtype=dtype, order=order), memory)
    module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"Stand-in GPU"},
        getDeviceCount=lambda: n_devices,
        memGetInfo=lambda: (memory.capacity - memory.used, memory.capacity),
    )
    module.cuda = SimpleNamespace(is_available=is_available, runtime=runtime, Device=lambda: SimpleNamespace(id=0))
    return module


def cuml(version, honours, memory, during_fit, answer):
    class LogisticRegression:
        def __init__(self, C, tol, max_iter, output_type):
            assert output_type == "numpy"
            self.C, self.tol, self.max_iter = C, tol, max_iter

        def fit(self, X, y, sample_weight=None):
            if during_fit is not None and X.shape[0] > 10:
                during_fit()
            n_rows, classes = X.shape[0], np.unique(y.on_device)
            assert n_rows * len(classes) < 2**31
            table = DeviceArray(np.empty((n_rows, len(classes))), memory)
            weights = None if sample_weight is None else sample_weight.on_device
            if len(classes) > 2 and not honours:
                weights = None
            place = np.searchsorted(classes, y.on_device)
            self.coef_, self.intercept_, n_iter = quasi_newton(X.on_device, place, weights, 1 / (self.C * n_rows), self)
            if answer is not None and len(classes) > 2:
                self.intercept_ = np.array(answer)
            self.n_iter_ = np.asarray([n_iter])
            del table

    class LinearRegression:
        def __init__(self, algorithm, copy_X, output_type):
            assert (algorithm, copy_X, output_type) == ("svd", False, "numpy")

        def fit(self, X, y, sample_weight=None):
            from sklearn.linear_model import LinearRegression as ScikitLearns

            assert X.flags.f_contiguous
            if during_fit is not None:
                during_fit()
            weights = None if sample_weight is None else sample_weight.on_device
            model = ScikitLearns(tol=1e-13).fit(X.on_device, y.on_device, sample_weight=weights)
            self.coef_, self.intercept_ = model.coef_, model.intercept_
            X.on_device[:] = np.nan  # which it may write to

    module = ModuleType("cuml")
    module.__version__ = version
    module.linear_model = SimpleNamespace(LogisticRegression=LogisticRegression, LinearRegression=LinearRegression)
    return module


def quasi_newton(X, y, weights, l2_strength, asked):
    """Minimise the mean over rows of weighted losses + l2 / 2 ||W||^2; return coefficients, intercepts, iterations."""
    n_rows, dim = X.shape
    weights = np.ones(n_rows) if weights is None else weights
    # Equal rows that follow each other are one row of their number, for speed alone.
    starts = np.flatnonzero(np.append(True, (X[1:] != X[:-1]).any(axis=1) | (y[1:] != y[:-1])))
    X, y, r = X[starts], y[starts], np.add.reduceat(weights, starts) / n_rows
    n_classes = int(y.max()) + 1
    n_outputs = 1 if n_classes == 2 else n_classes

    def value_and_gradient(flat):
        W, b = flat[: n_outputs * dim].reshape(n_outputs, dim), flat[n_outputs * dim :]
        Z = X @ W.T + b
        if n_outputs == 1:
            sign = 2.0 * y - 1.0
            losses, slope = np.logaddexp(0.0, -sign * Z[:, 0]), (expit(Z[:, 0]) - y)[:, None]
        else:
            total = logsumexp(Z, axis=1)
            losses, slope = total - Z[np.arange(len(y)), y], np.exp(Z - total[:, None])
            slope[np.arange(len(y)), y] -= 1.0
        slope *= r[:, None]
        gradient = np.concatenate([(slope.T @ X + l2_strength * W).ravel(), slope.sum(axis=0)])
        return r @ losses + 0.5 * l2_strength * np.vdot(W, W), gradient

    values = [value_and_gradient(np.zeros(n_outputs * (dim + 1)))[0]]

    def stop(intermediate_result):
        value, gradient = value_and_gradient(intermediate_result.x)
        values.append(value)
        scale = max(value, asked.tol)
        is_flat = len(values) > 10 and abs(values[-11] - value) <= 0.01 * asked.tol * scale
        if np.abs(gradient).max() <= asked.tol * scale or is_flat:
            raise StopIteration

    options = {"maxcor": 5, "maxiter": asked.max_iter, "maxfun": 10**6, "ftol": 0.0, "gtol": 0.0, "maxls": 50}
    found = minimize(
        value_and_gradient, np.zeros(n_outputs * (dim + 1)), jac=True, method="L-BFGS-B", callback=stop, options=options
    ).x
    return found[: n_outputs * dim].reshape(n_outputs, dim), found[n_outputs * dim :], len(values) - 1
