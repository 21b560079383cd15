"""What `bench_build.py` needs: speech, and a codec as fast as a GPU makes one."""
