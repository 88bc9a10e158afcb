"""Actions that are places made displacements: what moves something says little of the motion without where it is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dila.data.corpus import Corpus
from dila.errors import DilaError


def relative_actions(corpus: Corpus, components: Sequence[str]) -> Corpus:
    """The corpus with these components of the state taken from its actions, each from the one of the same place.

    ``("agent_x", "agent_y")`` makes Push-T's targets [x, y] displacements from the agent.

    Raises:
        DilaError: there is no such component, or not one for each number of the action.
    """
    names = corpus.names.get("state", ())
    if missing := [name for name in components if name not in names]:
        raise DilaError(
            f"{corpus.root}: the state has no {', '.join(missing)}; its components are {', '.join(names) or 'unnamed'}"
        )
    places = [names.index(name) for name in components]
    return replace(corpus, episodes=tuple(_relative(episode, places) for episode in corpus.episodes))


def _relative(episode: Any, places: Sequence[int]) -> Any:
    columns = episode.columns
    if "action" not in columns or "state" not in columns:
        return episode
    action = np.asarray(columns["action"])
    if action.shape[1] != len(places):
        raise DilaError(f"{episode.id}: relative names {len(places)} components for actions of {action.shape[1]}")
    return replace(episode, columns={**columns, "action": action - np.asarray(columns["state"])[:, places]})
