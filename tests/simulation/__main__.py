"""`python -m tests.simulation --seeds 20000`: run seeds; a failing one is printed with its trace and can be replayed."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.simulate import Result, simulate


def main() -> int:
    """Run and report; 1 when a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--replay", type=int, help="run this seed alone")
    parser.add_argument("--trace", action="store_true", help="print the whole trace of the replayed seed")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first seed that fails")
    parser.add_argument("--kind", action="store_true", help="without faults")
    parser.add_argument("--one-pod", action="store_true", help="no stage has several pods")
    parser.add_argument("--no-previews", action="store_true", help="no samples during the training")
    chosen = parser.parse_args()
    if chosen.replay is not None:
        result = simulate(
            chosen.replay,
            kind=chosen.kind,
            shards=not chosen.one_pod,
            previews=not chosen.no_previews,
            trace=True,
        )
        return _replayed(result, trace=chosen.trace)
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    return _many(
        seeds,
        kind=chosen.kind,
        shards=not chosen.one_pod,
        previews=not chosen.no_previews,
        keep_going=chosen.keep_going,
    )


def _replayed(result: Result, *, trace: bool) -> int:
    lines = result.trace.splitlines()
    _say("\n".join(lines if trace else lines[-60:]))
    _say(_summary(result))
    return 1 if result.violations else 0


def _many(seeds: range, *, kind: bool, shards: bool, previews: bool, keep_going: bool) -> int:
    begun, failing, events, fewest = time.monotonic(), 0, 0, sys.maxsize
    for count, seed in enumerate(seeds, 1):
        result = simulate(seed, kind=kind, shards=shards, previews=previews)
        events += result.events
        fewest = min(fewest, result.events)
        if result.violations:
            failing += 1
            _say(_summary(result))
            if not keep_going:
                _say("\n".join(result.trace.splitlines()[-60:]))
                _say(f"replay it: python -m tests.simulation --replay {seed} --trace")
                break
        if count % 500 == 0:
            _say(
                f"{count} seeds, {failing} fail, {events / count:.0f} events each, {time.monotonic() - begun:.0f} s"
            )
    _say(
        f"{count} seeds, {failing} fail, {events} events ({events / count:.0f} a seed, at least {fewest}), "
        f"{time.monotonic() - begun:.1f} s"
    )
    return 1 if failing else 0


def _summary(result: Result) -> str:
    verdict = "; ".join(result.violations) or "no violation"
    return f"seed {result.seed}: {result.events} events, {result.seconds:.0f} s, {','.join(result.phases)}: {verdict}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
