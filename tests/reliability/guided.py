"""Files that a fuzzer makes which sees the lines of ours that they reach (atheris, libFuzzer); for Linux.

::

    make fuzz SECONDS=60                                    # for each file of every kind
    python tests/reliability/guided.py lerobot3 --seconds 60

It begins with the tiny true files of `seeds`, and changes one of them, the others staying true, a process for each. As
in `fuzzing`, each must end in a result or in a `DilaError`. A fault is told once for each place that raises it, and the
search goes on behind it; what hangs or fills the memory ends its search, and is kept beside its log.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")]

MEMORY = 4_000
"""Megabytes in all."""
SECONDS = 20
"""For one file, on a machine that may be busy."""
SEEN = ("dila.data", "dila.vision", "dila.interop", "dila.imagine", "dila.train", "dila.configs")
"""Modules whose lines the fuzzer sees."""

Found = Callable[[bytes, str], None]


def search(kind: str, name: str, work: Path, seconds: int) -> None:
    """Change one file of a kind; never returns: libFuzzer ends the process. Faults are lines of ``faults.jsonl``."""
    import atheris

    with atheris.instrument_imports(include=list(SEEN)):
        from fuzzing import READERS, faults_of, mutated_json

        true, case = work.parent / "true", work / "case"
        read = READERS[_kinds()[kind][0]]
        read(true)  # imports what it needs, so that it is seen
    note = _noting(work, name)

    def one(data: bytes) -> None:
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(true, case)
        (case / name).write_bytes(data)
        for reason in faults_of(read, case):
            note(data, reason)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if name.endswith(".json") and draw.random() < 0.7:
            with suppress(ValueError, RecursionError):
                return mutated_json(data, draw)[:size]
        return atheris.Mutate(data, size)

    longest = 2 * (true / name).stat().st_size
    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY}", f"-max_len={longest}"]
    options += ["-print_final_stats=1", "-reload=0", f"-artifact_prefix={work}/", f"-seed_inputs={true / name}"]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def _kinds() -> dict[str, tuple[str, Callable[[Path], None]]]:
    """What reads each kind and what makes it, by its name."""
    from seeds import SEEDS

    return {make.__name__: (reader, make) for reader, makes in SEEDS.items() for make in makes}


def _noting(work: Path, name: str) -> Found:
    """What writes a fault down, the first of those that are alike."""
    known = set()

    def note(data: bytes, reason: str) -> None:
        lines = [line for line in reason.splitlines() if line.lstrip().startswith("File ")]
        alike = "\n".join(lines) or re.sub("[^a-zA-Z ]", "", reason)
        if alike not in known:
            known.add(alike)
            (work / f"fault_{len(known)}").write_bytes(data)
            with (work / "faults.jsonl").open("a") as faults:
                faults.write(json.dumps({"file": name, "number": len(known), "reason": reason[-1500:]}) + "\n")

    return note


def run(kind: str, work: Path, seconds: int) -> list[dict[str, Any]]:
    """A search from each file of a kind, of several that are alike from one."""
    from seeds import plant

    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    true = plant(_kinds()[kind][1], work).rename(work / "true")
    names = [str(path.relative_to(true)) for path in sorted(true.rglob("*")) if path.is_file()]
    alike = {re.sub(r"\d+", "", name): name for name in reversed(names)}
    return [_one(kind, name, work / f"{place}", seconds) for place, name in enumerate(reversed(alike.values()))]


def _one(kind: str, name: str, work: Path, seconds: int) -> dict[str, Any]:
    """Files read, branches of ours that the true file and all together reached, what went wrong."""
    work.mkdir()
    command = [sys.executable, __file__, kind, "--file", name, "--work", str(work), "--seconds", str(seconds)]
    with (work / "log").open("w") as log:
        ended = subprocess.run(command, stdout=log, stderr=log).returncode
    told = (work / "log").read_text(errors="replace")
    faults = work / "faults.jsonl"
    found = [json.loads(line) for line in faults.read_text().splitlines()] if faults.is_file() else []
    if ended:
        found.append({"file": name, "number": None, "reason": told[-1500:]})
    files = re.findall(r"number_of_executed_units: +(\d+)", told)
    covered = [int(number) for number in re.findall(r" cov: (\d+)", told)]
    reached = [covered[0], covered[-1]] if covered else None
    return {"kind": kind, "file": name, "files": int(files[0]) if files else None, "covered": reached, "faults": found}


def main() -> None:
    """Read the command line and run; one line of JSON a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="of files, see tests/reliability/seeds.py; all without any")
    parser.add_argument("--seconds", type=int, default=60, help="for each file")
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"), help="folder of what is found")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file:
        search(arguments.kinds[0], arguments.file, arguments.work, arguments.seconds)
    clean = True
    for kind in arguments.kinds or _kinds():
        for told in run(kind, arguments.work.resolve() / kind, arguments.seconds):
            clean = clean and not told["faults"]
            print(json.dumps(told), flush=True)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
