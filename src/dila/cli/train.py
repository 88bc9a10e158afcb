"""``dila train``."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from dila.cli.arguments import Data, read
from dila.configs import to_json
from dila.errors import DilaError
from dila.files import at_home
from dila.recipes import ABLATION, ABLATIONS, ABOUT, BASELINE, RECIPES, recipe
from dila.recipes.command import encoder_flags
from dila.train.run import Run

_HELP = """usage: dila train RECIPE --data PATH [PATH ...] [--weights W [W ...]] [--out DIR] [options]

Train a recipe on video: a file, a folder of videos, a folder of frames, or several of these, mixed by weights.

recipes:
{recipes}

ablations of tiny_pusht, or of another recipe, as in ablation:discrete@small:
{ablations}

baselines at the size of tiny_pusht, or at another, as in baseline:lapa@small and baseline:lapa@published:
{baselines}

`dila train RECIPE --help` lists the fields of the recipe; each is a flag, such as --batch 8 --optimiser.lr 1e-4. Whole
parts, such as the decoder or the guard, are added or removed in Python: replace(recipe("tiny_pusht"), decoder=None)."""


def main(arguments: Sequence[str]) -> None:
    """Parse the name of the recipe, then the other flags, whose defaults are the recipe's values."""
    if not arguments or arguments[0].startswith("-"):
        ablations = {f"{ABLATION}:{name}": change for name, change in ABLATIONS.items()}
        baselines = {f"{BASELINE}:{name}": about for name, about in ABOUT.items()}
        print(_HELP.format(recipes=_listing(RECIPES), ablations=_listing(ablations), baselines=_lines(baselines)))
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name, *rest = arguments
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not match any type in Union", UserWarning)  # types of plugins
        made = read(_trainer(name, rest), f"train {name}", rest)
    print(f"the trained model is in {made}")


def _trainer(name: str, arguments: Sequence[str]) -> Callable[..., Path]:
    """Make the verb for a recipe, whose fields become flags with its values as defaults."""
    folder, made = Path("runs") / name.replace(":", "-"), recipe(name)
    eyes = encoder_flags(arguments, made.encoder)

    def train(
        data: tuple[Data, ...],
        out: Path = folder,
        cache_dir: Path | None = None,
        fresh: bool = False,
        run: Annotated[Run, tyro.conf.arg(name="")] = replace(made, encoder={}),  # noqa: B008
        encoder: Annotated[Any, tyro.conf.arg(constructor=type(eyes))] = eyes,
    ) -> Path:
        """Train on video. If interrupted, the same command resumes.

        Args:
            data: the corpus: a video file, or a folder of videos or frames at any depth; or several of these.
            out: folder of the run: checkpoints, log.jsonl, pictures, run.json.
            cache_dir: folder of encoded features, shared by runs; default $DILA_CACHE or ~/.cache/dila/features.
            fresh: refuse to resume an existing run in the folder.
            run: fields of the recipe.
            encoder: name and fields of the frozen encoder.
        """
        from dila.train.loop import train

        _check_apart(out, data)
        _check_followed(run, made)
        return train(replace(run, encoder=to_json(encoder)), data, out, cache_dir=cache_dir, resume=not fresh)

    return train


def _check_apart(out: Path, data: Sequence[str]) -> None:
    """Check that the run is not written into the data folder, unless that is already the folder of a run."""
    from dila.data.remote import is_remote
    from dila.train.folder import RUN

    out = at_home(out)
    same = any(not is_remote(path) and at_home(path).resolve() == out.resolve() for path in data)
    if same and not (out / RUN).is_file():
        raise DilaError(f"--out {out} is the data folder; choose another folder for the run")


def _check_followed(run: Run, made: Run) -> None:
    """Check that no flag sets a model size that the encoder determines."""
    from dila.train.begin import differences

    for told in differences(to_json(made.model), to_json(run.model), "model"):
        if told.partition(" = ")[0].endswith((".grid", ".feature_dim")):
            raise DilaError(
                f"{told} is determined by the encoder; remove it, or change --encoder.size or --encoder.name"
            )


def _listing(named: Mapping[str, object]) -> str:
    return _lines({name: _summary(make) for name, make in named.items()})


def _lines(told: Mapping[str, str]) -> str:
    width = max(map(len, told))
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in told.items())


def _summary(make: object) -> str:
    return (make.__doc__ or "").strip().splitlines()[0]
