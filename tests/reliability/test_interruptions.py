"""Kills at random moments, and before every single change of a file: what goes on ends as if nothing had happened."""

import os
import random
import signal
from itertools import count

import pytest
import victims
from outcomes import RESULTS, STOPPED, check_whole, finish


def storm(verb, folder, corpus, seconds, kills, draw):
    """Interrupt at random moments until so many processes died, or the work is done; returns how many died."""
    for died in range(kills):
        process = victims.start(verb, folder, corpus)
        process.join(draw.uniform(0.1, 1.0) * seconds)
        if process.is_alive():
            os.kill(process.pid, draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        process.join(60)
        assert process.exitcode in STOPPED, process.exitcode
        check_whole(folder)
        if process.exitcode == 0:
            return died
    return kills


def interrupted(verb, whole, corpus, folder, kills, seed=0):
    expected, seconds, _ = whole(verb)
    draw, rounds = random.Random(seed), count()
    while kills > 0:  # a round ends when the work does; the next begins anew
        place = folder / str(next(rounds))
        kills -= storm(verb, place, corpus, seconds, kills, draw)
        finish(verb, place, corpus)
        assert RESULTS[verb](place) == expected


@pytest.mark.parametrize("verb", victims.VERBS)
def test_stopped_at_random_moments_it_ends_with_the_same(verb, whole, corpus, tmp_path):
    interrupted(verb, whole, corpus, tmp_path, kills=2)


@pytest.mark.parametrize("verb", victims.VERBS)
def test_killed_before_some_changes_of_files_it_ends_with_the_same(verb, whole, corpus, tmp_path):
    expected, _, changes = whole(verb)
    each_change(verb, expected, corpus, tmp_path, random.Random(1).sample(range(1, changes + 1), 2))


def each_change(verb, expected, corpus, folder, numbers):
    for number in numbers:
        place = folder / str(number)
        process = victims.start(verb, place, corpus, dies_at=number)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        check_whole(place)
        finish(verb, place, corpus)
        assert RESULTS[verb](place) == expected, f"killed before change {number}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", victims.VERBS)
def test_stopped_dozens_of_times(verb, whole, corpus, tmp_path):
    interrupted(verb, whole, corpus, tmp_path, kills=30, seed=100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", victims.VERBS)
def test_killed_before_every_change_of_a_file(verb, whole, corpus, tmp_path):
    expected, _, changes = whole(verb)
    each_change(verb, expected, corpus, tmp_path, range(1, changes + 1))
