"""The command ``dila``. A verb's module is imported when it is called, so ``dila --help`` costs nothing."""

import errno
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import TypeGuard

from dila.errors import DilaError, Shortage, refuse_shortage
from dila.files import NO_ROOM

VERBS: dict[str, str] = {
    "quickstart": "record Push-T, train the tiny recipe, evaluate it, and write an HTML report",
    "train": "train a model on your videos",
    "train-decoder": "train a small decoder that turns a model's predictions into pictures",
    "encode": "encode a corpus into the feature cache, locally or on a cluster",
    "label": "infer the latent actions of videos and write them to Parquet",
    "rollout": "imagine the future of a clip under its own latent actions",
    "transfer": "replay the latent actions of one clip in the scene of another",
    "rebind": "draw the structure of one clip with the content of another",
    "adapt": "teach a trained model real actions, as planning needs",
    "plan": "reach goal images in a simulator, with random actions and the true simulator as bounds",
    "isolate": "freeze the structure of a clip, to see what content still moves",
    "data record": "record a simulator or generator, with its true actions",
    "data check": "describe a corpus and report its problems, with an exit code",
    "data show": "draw a contact sheet of a corpus",
    "data convert": "write any corpus as a LeRobot data set",
    "eval pin": "fix the held-out clips that models are evaluated on, with fingerprints",
    "eval": "compute a table or figure of the paper: rollouts, probes, disentanglement, transfer, ...",
    "eval ablation": "compute table 2 for one run (same as eval cycle); report compares several",
    "eval planning": "compute table 4 in one simulator (same as plan)",
    "report": "compare evaluated runs on one page: intervals over seeds, paired tests, curves, clips",
    "import-released": "convert a released checkpoint to a folder that the other verbs accept",
    "demo": "play with a model in the browser: steer, transfer, rebind, look inside",
    "pack": "write a trained model at half the size, with a model card",
    "push": "upload a trained model to the Hugging Face Hub",
    "bench": "measure what training, rollouts, plans and labels cost on this machine",
    "compare": "train DiLA, ablations and baselines on equal terms, with one JSON per run",
    "compare summary": "summarise a comparison on a page: scores over seeds, paired tests, the paper's claims",
    "params": "count the parameters of DiLA and the baselines at each size",
    "parity": "compare with numbers recorded from the released model",
}
"""Every verb with its line of help; ``a-b`` and ``a b`` live in `dila.cli.a_b`, see `_run`."""

NO_WAY = (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP)
"""Errors of the system about a path that was only looked up."""

_HELP = "usage: dila VERB [options]\n\nDisentangled latent action world models, from video without action labels.\n\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb. Invalid input and lack of resources give one sentence on stderr and exit code 2."""
    _print_any_name()
    try:
        try:
            return _answer(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            if sys.stdout is not None:  # it may be closed
                sys.stdout.flush()
    except BrokenPipeError:
        if not _unread():
            raise
        return 141  # as shells report SIGPIPE
    except SystemExit as end:
        if end.code in (130, 143):  # of training, which saves first
            print("dila: stopped and saved; the same command resumes where it stopped", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("dila: interrupted; the same command resumes where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if (sentence := _sentence(error)) is None:
            raise
        print(f"dila: {sentence}", file=sys.stderr)
        if _is_full(error) and sys.stdout is not None:
            _let_go(sys.stdout.fileno())
        return 2


def _sentence(error: Exception) -> str | None:
    """Message for an error that the user can fix; None for a bug."""
    if isinstance(error, DilaError):
        return str(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"the name {error.object!a} is not valid UTF-8; rename the file, or set LC_ALL=C.UTF-8"
    if _is_full(error):
        return f"the output cannot be written ({error.strerror}); free some space, or send it elsewhere"
    if isinstance(error, OSError) and error.errno in NO_WAY and error.filename:
        return f"{error.filename} cannot be used ({error.strerror}); give another path"
    try:
        refuse_shortage(error)
    except Shortage as shortage:
        return str(shortage).splitlines()[-1].removeprefix("dila.errors.Shortage: ")  # behind a worker's traceback
    return None


def _print_any_name() -> None:
    """Make stdout print file names that the terminal cannot show with escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _answer(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print(_help())
        return 0
    if verb == "--version":
        from dila import __version__

        print(f"dila {__version__}")
        return 0
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    return _run(" ".join(arguments[:words]), arguments[words:])


def _run(verb: str, arguments: list[str]) -> int:
    """Call the function named like the verb's last word with its flags, or the module's `main`, which parses them."""
    if verb not in VERBS:
        raise DilaError(f"there is no verb {verb!r}; `dila --help` lists them: {', '.join(VERBS)}")
    from dila.cli.arguments import read
    from dila.plugins import load_plugins

    load_plugins()
    names = verb.replace("-", "_").split()
    module, words = importlib.import_module("dila.cli." + "_".join(names)), [_at_home(word) for word in arguments]
    if hasattr(module, "main"):
        return module.main(words) or 0
    return read(getattr(module, names[-1]), verb, words) or 0


def _at_home(word: str) -> str:
    """Expand ``~`` in an argument: shells do not in ``--out=~/runs``."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + os.path.expanduser(value)


def _unread() -> bool:
    """Whether the reader of our own output is gone, as in ``dila params | head``."""
    output = sys.stdout.fileno()
    asked = select.poll()
    asked.register(output, 0)
    if not asked.poll(0):  # POLLERR is always reported
        return False
    _let_go(output)
    return True


def _is_full(error: Exception) -> TypeGuard[OSError]:
    """Whether the disk is full for stdout; errors about other files have a file name."""
    return isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None


def _let_go(output: int) -> None:
    """Redirect `output` to /dev/null, because Python flushes it again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items())
    return f"{_HELP}verbs:\n{verbs}\n\n`dila VERB --help` shows the options of a verb, `dila --version` the version."
