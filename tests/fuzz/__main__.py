"""`python -m tests.fuzz`: fuzz each target for some seconds, on every core; `make fuzz` runs it.

    python -m tests.fuzz                              every target, 10 seconds each
    python -m tests.fuzz decoding --seconds 300       one of them, for five minutes
    python -m tests.fuzz decoding --input FILE        check one input, without the fuzzer

Exit code 1 when a target failed: the input is kept, and shown with the command that checks it again. The fuzzer begins
with the seeds of the target in `tests/data/fuzz`, and draws by `--seed`.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

TARGETS: Final = ("decoding", "shapes", "settings", "addresses", "api")
SEEDS: Final = Path(__file__).parents[1] / "data" / "fuzz"
FOUND: Final = Path(".cache") / "fuzz"
INSTRUMENTED: Final = ["crashfold", "tests.fuzz", "tomllib", "urllib.parse"]
LENGTH_MAX: Final = 2_048
ONE_INPUT_S: Final = 20
"""An input that takes longer is a failure."""
MEMORY_MAX_MB: Final = 2_048
SLACK_S: Final = 60
"""For imports and the last input."""


class Outcome(NamedTuple):
    """How fuzzing a target ended."""

    target: str
    code: int
    said: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all when none is named")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--input", type=Path, help="check this file and no other input")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    targets = options.targets or TARGETS
    if unknown := [name for name in targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if options.input is not None:
        for name in targets:
            target(name).check(options.input.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris, which has a wheel for Linux on x86-64 and Python 3.11 to 3.13 alone")
        return 1
    if options.inside:
        _fuzz(targets[0], options.seconds, options.seed)
    with ThreadPoolExecutor(min(options.jobs, len(targets))) as pool:
        outcomes = list(pool.map(lambda name: _run(name, options.seconds, options.seed), targets))
    for outcome in outcomes:
        _show(outcome)
    failed = [outcome.target for outcome in outcomes if outcome.code]
    print("failed:", " ".join(failed) or "none")
    return 1 if failed else 0


def target(name: str) -> Any:
    """The module of that name."""
    return importlib.import_module(f"tests.fuzz.{name}")


def _run(name: str, seconds: int, seed: int) -> Outcome:
    """Fuzz a target in a process of its own: a fuzzer never returns."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--inside", "--seconds", str(seconds), "--seed", str(seed)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds + SLACK_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(name, 1, f"did not end {SLACK_S} s after its time")
    return Outcome(name, done.returncode, done.stdout + done.stderr)


def _show(outcome: Outcome) -> None:
    lines = outcome.said.splitlines()
    done = next((line for line in reversed(lines) if line.startswith("Done ")), "")
    coverage = next((line.split("\t")[2].strip() for line in reversed(lines) if line.count("\t") > 2), "")
    print(f"{outcome.target}: {'failed' if outcome.code else done.lower() or 'ended'} {coverage}".rstrip())
    if outcome.code:
        print("\n".join(line for line in lines if not line.startswith(("INFO:", "WARNING:", "#", "0x"))))
        for line in lines:
            if "Test unit written to " in line:
                kept = line.rpartition("Test unit written to ")[2]
                print(f"again: .venv/bin/python -m tests.fuzz {outcome.target} --input {kept}")


def _fuzz(name: str, seconds: int, seed: int) -> None:
    """Fuzz, and end the process."""
    import atheris  # here, for it is not everywhere

    with atheris.instrument_imports(include=INSTRUMENTED):
        check: Callable[[bytes], None] = target(name).check
    FOUND.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="crashfold-fuzz-") as directory:
        dictionary, found = Path(directory, "words"), Path(directory, "found")
        dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in dict.fromkeys(target(name).TOKENS)))
        found.mkdir()
        flags = {
            "seed": seed,
            "max_total_time": seconds,
            "max_len": LENGTH_MAX,
            "timeout": ONE_INPUT_S,
            "rss_limit_mb": MEMORY_MAX_MB,
            "dict": dictionary,
            "artifact_prefix": f"{FOUND}/{name}-",
            "print_final_stats": 0,
        }
        atheris.Setup(
            [name, *(f"-{flag}={value}" for flag, value in flags.items()), str(found), str(SEEDS / name)], check
        )
        atheris.Fuzz()


def _escaped(token: bytes) -> str:
    """As the fuzzer reads words."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main())
