"""What the benchmarks count by; they themselves run by hand."""

import subprocess
import sys
import time

import psutil

from benchmarks.cpu import spent
from benchmarks.distributed import summary

BURN = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


def _capture(cpu: float, busy: float) -> dict[str, float]:
    return {"rate": 1000.0, "cpu_us": cpu, "store_cpu_us": 2 * cpu, "busy": busy}


def test_ratios_are_of_the_medians_and_the_cores_are_named_where_they_were_the_limit() -> None:
    """Of three turns the one in the middle counts, and 90 % of the cores is all of them."""
    results = summary(
        {
            "capture_1": [_capture(50, 0.5), _capture(40, 0.5), _capture(90, 0.5)],
            "capture_2": [_capture(55, 0.95)],
            "capture_4": [_capture(60, 0.99)],
            "dispatch_1": [{"rate": 40.0, "busy": 0.1}],
            "dispatch_2": [{"rate": 78.0, "busy": 0.2}],
            "dispatch_4": [{"rate": 150.0, "busy": 0.3}],
        }
    )

    assert (results["capture_1_cpu_us"], results["cpu_ratio_2"], results["cpu_ratio_4"]) == (50, 1.1, 1.2)
    assert (results["dispatch_ratio_2"], results["dispatch_ratio_4"]) == (1.95, 3.75)
    assert results["limited_by_cores"] == ["capture_2", "capture_4"]


def test_cpu_of_a_child_that_has_ended_counts() -> None:
    """A worker's processes are its own, also those before a restart."""
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); sys.stdin.read()"
    worker = psutil.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    try:
        end = time.monotonic() + 60
        while worker.children() or spent([worker]) < 0.2:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        worker.communicate()
