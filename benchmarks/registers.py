"""Do the Triton kernels fit the registers of a GPU that is not here? Compiles them for sm_90 and prints JSON.

    make kernels                       # which leaves build/registers.jsonl
    python benchmarks/registers.py     # where Triton is installed

Triton brings NVIDIA's assembler, which says how many registers a thread takes and how many bytes it spills to memory:
a kernel that spills is slower many times over, and nothing else tells so (docs/log.md, 27 November 2026). Exits with 1
if any does.
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dila.nn import triton_attention, triton_geglu, triton_peg, triton_scan, triton_time

ASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
TARGET = GPUTarget("cuda", 90, 32)
BASE = {"states": 32, "begins": False, "goes_on": False} | triton_scan._sizes(torch.empty(512, 32))


def registers(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> dict[str, Any]:
    """What one kernel takes.

    Args:
        kernel: a function of Triton.
        types: of its arguments, as Triton spells them; pointers and integers count as multiples of 16, as at `base`.
        constants: its other arguments, and how many warps and stages a program has where they are not Triton's own.
    """
    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    names = kernel.arg_names
    sixteen = {(names.index(name),): [["tt.divisibility", 16]] for name, kind in types.items() if kind != "fp32"}
    source = ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        {(names.index(name),): value for name, value in constants.items() if name in names},
        sixteen,
    )
    ptx = triton.compile(source, target=TARGET, options=options).asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        command = [str(ASSEMBLER), "-v", "-arch=sm_90a", str(path), "-o", str(path.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    used, spilled = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes spill stores", told)
    assert used, told
    assert spilled, told
    return {"kernel": kernel.__name__.strip("_"), "registers": int(used[1]), "spilled_bytes": int(spilled[1])}


def _works() -> list[tuple[Any, dict[str, str], dict[str, Any]]]:
    """Every kernel with the types and tiles of `base` in bf16 and in fp32."""
    works: list[tuple[Any, dict[str, str], dict[str, Any]]] = []
    for kind, past in product(("*bf16", "*fp32"), (False, True)):
        sizes = dict.fromkeys(("frames", "rows", "cols", "channels"), "i32")
        strides = dict.fromkeys(("past_clip", "past_frame"), "i64")
        (cells, channels), (few, narrow) = triton_peg._TILE, triton_peg._WEIGHT_TILE
        taps, weights = ({"continued": past, "P": p, "C": c} for p, c in ((cells, channels), (few, narrow)))
        given = {"x": kind, "past": kind, "weight": "*fp32", "bias": "*fp32", "y": kind}
        works.append((triton_peg._taps_kernel, given | sizes | strides, taps))
        given = {"gy": kind, "weight": "*fp32", "gx": kind, "gpast": kind}
        works.append((triton_peg._input_kernel, given | sizes, taps))
        given = {"x": kind, "past": kind, "gy": kind, "gweight": "*fp32", "tiles": "i32"}
        works.append((triton_peg._weight_kernel, given | sizes | strides, weights))
    for kind, drops in product(("*bf16", "*fp32"), (False, True)):
        tile = {"drops": drops, "R": triton_geglu._ROWS, "C": triton_geglu._COLS}
        sizes = {"rows": "i32", "inner": "i32", "dropped": "i32", "kept": "fp32"}
        works.append((triton_geglu._forward_kernel, {"h": kind, "seed": "*i64", "y": kind} | sizes, tile))
        given = {"h": kind, "seed": "*i64", "gy": kind, "gh": kind}
        works.append((triton_geglu._backward_kernel, given | sizes, tile))
    for kind in ("*bf16", "*fp32"):
        given = dict.fromkeys(("u", "dt", "B", "C"), kind) | {"A": "*fp32", "x0": "*fp32"}
        sizes = {"frames": "i32", "inner": "i32"}
        works.append((triton_scan._forward_kernel, given | {"y": kind, "last": "*fp32"} | sizes, BASE))
        theirs = {"gy": kind, "gu": kind, "gdt": kind}
        theirs |= dict.fromkeys(("glast", "gA", "gB", "gC", "gx0", "scratch"), "*fp32")
        works.append((triton_scan._backward_kernel, given | theirs | sizes | {"rows": "i32"}, BASE))
    for width, drops in product((32, 64), (False, True)):
        tile = {"drops": drops, "D": width, "M": triton_attention._QUERIES, "N": triton_attention._KEYS}
        own = tile | {"N": triton_attention._OWN_KEYS, "num_stages": 2}
        given = dict.fromkeys(("q", "k", "v", "bias"), "*bf16") | {"seed": "*i64", "lse": "*fp32"}
        strides = {f"{part}_{axis}": "i32" for part in "qkv" for axis in ("frame", "token", "head")}
        plain = dict.fromkeys(("queries", "keys", "heads", "bias_row"), "i32")
        sizes = strides | plain | {"dropped": "i32", "kept": "fp32"}
        works.append((triton_attention._forward_kernel, given | {"o": "*bf16"} | sizes, tile))
        given |= dict.fromkeys(("go", "gk", "gv", "glogits"), "*bf16") | {"delta": "*fp32", "first": "i32"}
        works.append((triton_attention._key_kernel, given | sizes, own))
        given = dict.fromkeys(("k", "glogits", "gq"), "*bf16") | {
            f"k_{axis}": "i32" for axis in ("frame", "token", "head")
        }
        works.append((triton_attention._query_kernel, given | plain, own))
        given = {"o": "*bf16", "go": "*bf16", "delta": "*fp32", "queries": "i32", "heads": "i32"}
        works.append((triton_attention._delta_kernel, given, tile))
    for width, drops in product((32, 64), (False, True)):
        tile = {"drops": drops, "T": 16, "H": width // 2, "num_warps": 16 * width // 2 // triton_time._OF_A_WARP}
        given = {"q": "*bf16", "kv": "*bf16", "q_scale": "*fp32", "k_scale": "*fp32", "turns": "*fp32", "seed": "*i64"}
        sizes = dict.fromkeys(("pairs", "frames", "cells", "heads", "dropped"), "i32") | {"kept": "fp32"}
        works.append((triton_time._forward_kernel, given | {"o": "*bf16", "placed": "*bf16"} | sizes, tile))
        given |= dict.fromkeys(("go", "gplaced", "gq", "gkv"), "*bf16") | {"gscale": "*fp32"}
        works.append((triton_time._backward_kernel, given | sizes, tile | {"used": False}))
    return works


def main() -> int:
    """Print one row a kernel."""
    spilling = False
    for kernel, types, constants in _works():
        row = {"module": kernel.fn.__module__.rpartition(".")[2]} | registers(kernel, types, constants)
        print(json.dumps(row | {"types": types} | constants))
        spilling |= row["spilled_bytes"] > 0
    return int(spilling)


if __name__ == "__main__":
    sys.exit(main())
