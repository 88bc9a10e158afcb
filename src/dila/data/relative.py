"""Convert actions that are target positions into displacements, since a target alone does not determine the motion."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dila.data.corpus import Corpus
from dila.errors import DilaError


def relative_actions(corpus: Corpus, components: Sequence[str]) -> Corpus:
    """Return the corpus with these components of the state subtracted from its actions, in the same order.

    ``("agent_x", "agent_y")`` turns Push-T's targets [x, y] into displacements from the agent.

    Raises:
        DilaError: the state has no such component, or their number differs from that of the action.
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
        raise DilaError(
            f"{episode.id} has actions of {action.shape[1]} components, but relative names {len(places)} components "
            "of the state; name one for each"
        )
    return replace(episode, columns={**columns, "action": action - np.asarray(columns["state"])[:, places]})
