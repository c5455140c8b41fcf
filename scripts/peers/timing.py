"""How long does it take?"""
import time


def best(run, repetitions=3):
    """Shortest time of `run`, after one that does not count."""
    run()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
