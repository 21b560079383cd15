"""What benchmarks share: facts of the machine, wall time and memory of a command, and the store to run it on."""
