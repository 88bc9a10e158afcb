"""What lies beside the episodes of a corpus and is not used as its owner may think, for `dila.data.check`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from dila.data.corpus import Corpus
from dila.data.table import TABLE
from dila.protocols import Episode

TABLES = frozenset({".csv", ".parquet"})


def unread_tables(corpus: Corpus) -> tuple[str, ...]:
    """Tables in the folders of episodes that nothing reads, with what to do."""
    above = (folder for episode in corpus.episodes for folder in (corpus.root / episode.id).parents)
    folders = {folder for folder in above if folder.is_relative_to(corpus.root) and folder.is_dir()}
    files = (path for folder in folders for path in folder.iterdir() if not path.name.startswith("."))
    unread = sorted(path for path in files if path.suffix.lower() in TABLES and path != corpus.root / TABLE)
    return tuple(
        f"{path.relative_to(corpus.root).as_posix()}: only {TABLE} in the corpus's own folder is read; docs/data.md "
        "has the lines that make it"
        for path in unread
    )


def camera_folders(episodes: Sequence[Episode]) -> Iterator[str]:
    """Folders side by side that hold the same names, two or more, each with as many frames: most likely cameras."""
    folders: defaultdict[PurePosixPath, dict[str, int]] = defaultdict(dict)
    for episode in episodes:
        path = PurePosixPath(episode.id)
        if not hasattr(episode, "camera") and path.parent.name:
            folders[path.parent][path.name] = len(episode.times)
    alike: defaultdict[tuple[PurePosixPath, frozenset[tuple[str, int]]], list[PurePosixPath]] = defaultdict(list)
    for folder, names in folders.items():
        alike[folder.parent, frozenset(names.items())].append(folder)
    for (_, names), (one, *others) in alike.items():
        for other in others if len(names) > 1 else ():
            yield f"{one} and {other}: {len(names)} names"
