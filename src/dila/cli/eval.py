"""``dila eval``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Device, Fps, Model, print_json, read

What = Literal[
    "all", "generation", "cycle", "probe", "disentangle", "motion", "manifold", "transfer", "sceptic"
]  # fmt: skip


def evaluate(
    what: Positional[What],
    model: Positional[Model],
    data: Positional[Data],
    out: Path = Path("outputs/evaluation.json"),
    pins: Path | None = None,
    decoder: str | None = None,
    frames: int = 16,
    context: int = 1,
    clips: int = 64,
    column: str = "action",
    components: tuple[str, ...] = (),
    change: bool = False,
    pairs: int = 800,
    pictures: int = 3,
    still: str | None = None,
    source: str | None = None,
    i3d: str | None = None,
    seed: int = 0,
    tables: tuple[str, ...] = (),
    held_out: float | None = None,
    fps: Fps = None,
    camera: Camera = None,
    name: str | None = None,
    run_seed: int | None = None,
    cache_dir: Path | None = None,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Measure a model on held-out episodes: a table or figure of the paper, or all of them.

    generation: rollouts (table 1, figures 7, 9, 10). cycle: cycle transfer (table 2). probe: true actions from z
    (table 3). disentangle: what s, c and z hold (figure 5). motion: rebinding and frozen structure (figure 4).
    manifold: the shape of z (figure 6). transfer: grids (figures 3, 8). sceptic: a background that moves by itself.
    The file keeps the latest of each table, of one model on one set of clips; what is there is not made again.

    Args:
        what: the table or figure.
        data: a corpus; its held-out episodes are judged, the others fit probes.
        out: .json; pictures go to the folder ``pictures`` beside it.
        pins: clips to judge on, from `dila eval pin`; spread over the held-out episodes when left out.
        decoder: a trained model whose decoder draws for a model that has none, so that all are drawn alike.
        frames: of a clip, context and imagined ones together; shortened to what the data allow.
        context: true frames that the model sees.
        clips: how many.
        column: of true values that probe and manifold read: action, state, or another one of the data.
        components: of the column, by name or number; all when left out. Motion and disentangle read every column, and
            of this one these.
        change: read the change of the column from frame to frame, such as the displacement behind a state.
        pairs: transitions that a probe is fitted to.
        pictures: clips drawn.
        still: for sceptic, the same recording with a background that stands still.
        source: for transfer, other data whose held-out clips give the actions.
        i3d: TorchScript file of I3D, for the published Fréchet video distance.
        seed: of probes and controls.
        tables: with all, only these.
        held_out: share of the episodes held out; that of the run that the model is part of, or 0.1, when left out.
        name: of the model in comparisons; seeds of one model share it. The run's own when left out.
        run_seed: of the run; its own when left out.
        cache_dir: of features; $DILA_CACHE or the user's cache folder when left out.
        json: print the results as JSON.
    """
    from dila.configs import to_json
    from dila.errors import DilaError
    from dila.evaluate.bench import Settings, open_bench
    from dila.evaluate.result import print_scores
    from dila.evaluate.tables import TABLES, measure_some

    if out.suffix != ".json":
        raise DilaError(f"--out {out} must end in .json")
    if unknown := set(tables) - TABLES.keys():
        raise DilaError(f"--tables: there is no {', '.join(sorted(unknown))}; choose from {', '.join(TABLES)}")
    settings = Settings(
        frames, context, clips, column, components, change, pairs, pictures, still, source, i3d, seed
    )  # fmt: skip
    bench = open_bench(
        model, data, out.parent / "pictures", settings, pins=pins, decoder=decoder, device=device, cache_dir=cache_dir,
        held_out=held_out, fps=fps, camera=camera, name=name, seed=run_seed,
    )  # fmt: skip
    wanted = (tables or tuple(TABLES)) if what == "all" else (what,)
    results = measure_some(bench, wanted, out, progress=True)
    if json:
        print_json([to_json(result) for result in results])
        return
    print_scores(results)
    print(f"wrote {out}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(evaluate, "eval", arguments)
