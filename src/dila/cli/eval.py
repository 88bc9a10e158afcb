"""``dila eval``."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Device, Fps, Model, print_json, read


def evaluate(
    what: Positional[str],
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
    """Evaluate a model on held-out episodes: a table or figure of the paper, or all of them.

    generation: rollouts (table 1, figures 7, 9, 10). cycle: cycle transfer (table 2). probe: true actions from z
    (table 3). disentangle: what s, c and z encode (figure 5). motion: rebinding and frozen structure (figure 4).
    manifold: the shape of z (figure 6). transfer: grids (figures 3, 8). sceptic: a background that moves by itself.
    The file keeps the latest result of each table, for one model on one set of clips; existing results are kept.

    Args:
        what: table or figure to compute, or all.
        data: a corpus; the model is evaluated on its held-out episodes, and probes are fitted on the others.
        out: .json file to write; pictures go to the folder ``pictures`` beside it.
        pins: clips to evaluate on, from `dila eval pin`; by default spread over the held-out episodes.
        decoder: a trained model whose decoder is used if the model has none, so that all models are drawn alike.
        frames: frames per clip, including the context; shortened to what the data allow.
        context: number of true frames that the model sees.
        clips: number of clips.
        column: column of true values for probe and manifold: action, state, or another column of the data.
        components: of the column, by name or number; default all. Motion and disentangle also read all other columns.
        change: probe for the change of the column from frame to frame, such as the displacement behind a state.
        pairs: number of transitions that a probe is fitted on.
        pictures: number of clips to draw.
        still: for sceptic, the same recording with a still background.
        source: for transfer, another corpus whose held-out clips provide the actions.
        i3d: TorchScript file of I3D, for the published Fréchet video distance.
        seed: random seed of probes and controls.
        tables: with all, compute only these.
        held_out: share of the episodes held out; default: that of the model's run, or 0.1.
        name: name of the model in comparisons, shared by its seeds; default: the run's own.
        run_seed: seed of the run in comparisons; default: its own.
        cache_dir: folder of encoded features; default $DILA_CACHE or the user's cache folder.
        json: print the results as JSON.
    """
    from dila.configs import to_json
    from dila.errors import DilaError
    from dila.evaluate.bench import Settings, open_bench
    from dila.evaluate.result import print_scores
    from dila.evaluate.tables import TABLES, measure_some

    if out.suffix != ".json":
        raise DilaError(f"--out {out} must end in .json")
    if what not in ("all", *TABLES):
        raise DilaError(f"there is no table {what!r}; choose all or one of {', '.join(TABLES)}")
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
    """Parse the command line and run."""
    read(evaluate, "eval", arguments)
