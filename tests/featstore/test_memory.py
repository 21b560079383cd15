"""How much memory there is: the machine's, a container's, a batch job's."""

from featstore import memory


def test_available_memory_is_the_least_that_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    of_machine = memory.available_bytes()
    assert of_machine is not None
    assert of_machine > 10**8  # all there is, where no file tells
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:   4000 kB\n")
    assert memory.available_bytes() == 4_096_000
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 400000\n")
    assert memory.available_bytes() == 1_400_000
    (tmp_path / "cgroup").write_text("0::/job/step\n")  # a batch job on a host: limits lie above its own group
    (tmp_path / "job" / "step").mkdir(parents=True)
    for name in ("memory.max", "memory.current", "memory.stat"):
        (tmp_path / "job" / name).write_text((tmp_path / name).read_text().replace("3000000", "2500000"))
    assert memory.available_bytes() == 900_000
    (tmp_path / "job" / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 4_096_000
