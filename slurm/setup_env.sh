#!/usr/bin/env bash
# Make the Python environment for the Slurm scripts. Run it once, on a machine that reaches a package index.
#
#   slurm/setup_env.sh                                          environment in .venv, with the tested versions
#   RVQPROBE_VENV=/path/to/env PYTHON=python3.12 slurm/setup_env.sh
#   RVQPROBE_VENV=/path/to/gpu-env CUML=13 slurm/setup_env.sh   with cuML for CUDA 13 (driver 580+); CUML=12: 535+
#
# cuML pins pandas and numba to versions of its own, so give it an environment of its own, for `probe` alone.
set -euo pipefail

home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${RVQPROBE_VENV:-$home/.venv}"
python="${PYTHON:-python3}"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup_env.sh: rvqprobe needs Python 3.11 or newer, and $python is not; set PYTHON (module load python?)" >&2
    exit 2
}

case "${CUML:-}" in
    "") extra="" ;;
    12) extra="[cuml-cu12]" ;;
    13) extra="[cuml]" ;;
    *)
        echo "setup_env.sh: CUML is '$CUML'; expected 12, 13 (the CUDA major version) or nothing" >&2
        exit 2
        ;;
esac

"$python" -m venv "$venv"
constraints="$home/constraints.txt"
if [[ -n "$extra" ]]; then
    # Only the pair that has to match is pinned here; the rest is cuML's to choose.
    constraints="$venv/constraints-torch.txt"
    grep -E '^(torch|torchaudio)==' "$home/constraints.txt" >"$constraints"
fi
"$venv/bin/python" -m pip install --disable-pip-version-check -c "$constraints" -e "$home$extra"
echo "environment ready: $venv"
