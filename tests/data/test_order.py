import json
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from dila.data.order import EpochSampler
from dila.errors import DilaError


def test_every_epoch_is_another_order_of_everything():
    sampler = EpochSampler(50, seed=3)
    first, second = sampler.order(0), sampler.order(1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != EpochSampler(50, seed=4).order(1)
    assert first == EpochSampler(50, seed=3).order(0)


def batches(sampler, count, loader):
    out, it = [], iter(loader)
    while len(out) < count:
        try:
            batch = next(it)
        except StopIteration:
            it = iter(loader)
            continue
        sampler.advance(len(batch))
        out.append(batch.tolist())
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_goes_on_at_the_exact_next_clip(workers):
    def make():
        sampler = EpochSampler(23, batch_size=4, seed=1)
        loader = DataLoader(
            range(23),
            batch_size=4,
            sampler=sampler,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
        return sampler, loader

    straight = batches(*(lambda s, d: (s, 12, d))(*make()))
    assert len({i for batch in straight[:5] for i in batch}) == 20
    for stop in (3, 5, 7):
        sampler, loader = make()
        before = batches(sampler, stop, loader)
        state = json.loads(json.dumps(sampler.state_dict()))
        sampler, loader = make()
        sampler.load_state_dict(state)
        assert before + batches(sampler, 12 - stop, loader) == straight


def test_what_follows_goes_on_with_the_next_clips_or_if_clips_are_others_with_the_next_epoch():
    before = EpochSampler(50, batch_size=4, seed=3)
    before.advance(40)
    alike, other = EpochSampler(50, batch_size=4, seed=3), EpochSampler(60, batch_size=4, seed=3)
    alike.follow(before.state_dict(), False)
    other.follow(before.state_dict(), False)
    assert list(alike) == before.order(0)[40:]
    assert list(other) == other.order(1)


def test_processes_share_an_epoch_without_overlap():
    shares = [EpochSampler(47, batch_size=3, seed=2, rank=r, world=4).order(5) for r in range(4)]
    assert {len(s) for s in shares} == {9}
    assert len({i for s in shares for i in s}) == 36


def test_sampler_refuses_what_does_not_fit():
    with pytest.raises(DilaError, match="7 clips do not fill a batch of 4 in 2"):
        EpochSampler(7, batch_size=4, world=2)
    with pytest.raises(DilaError, match="rank = 2"):
        EpochSampler(7, rank=2, world=2)
    state = EpochSampler(20).state_dict()
    with pytest.raises(DilaError, match=r"has lengths = \[20\], but this run has \[21\]"):
        EpochSampler(21).load_state_dict(state)


def counted(order, lengths):
    """How many of an epoch's clips each data set gives, and the numbers within each."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    sets = [[] for _ in lengths]
    for item in order:
        number = next(i for i, end in enumerate(ends) if item < end)
        sets[number].append(item - ends[number] + lengths[number])
    return sets


def test_weights_say_how_often_each_data_set_comes_and_all_of_it_does():
    lengths = [400, 10, 90]
    sampler = EpochSampler(lengths, batch_size=5, seed=1, weights=[2, 1, 1])
    assert sampler.share == 500
    large, small, middle = counted(sampler.order(0), lengths)
    assert (len(large), len(small), len(middle)) == (250, 125, 125)
    assert len(set(large)) == 250  # asked for less than it has: none comes twice
    # asked for more: gone through whole before any comes again
    assert sorted(small.count(i) for i in range(10)) == [12] * 5 + [13] * 5
    seen = set()
    for epoch in range(12):
        seen |= set(counted(sampler.order(epoch), lengths)[0])
    assert len(seen) == 400
    assert sampler.order(0) != sampler.order(1)
    # mixed evenly: no stretch is of one data set
    first = counted(sampler.order(0)[:100], lengths)
    assert 30 < len(first[0]) < 70


def test_weights_of_equal_kinds_are_the_same_and_none_takes_every_clip_once():
    a, b = (EpochSampler([30, 10], seed=2, weights=w) for w in ([3, 1], [0.75, 0.25]))
    assert a.order(3) == b.order(3)
    assert sorted(EpochSampler([30, 10], seed=2).order(0)) == list(range(40))
    assert EpochSampler([40], seed=2, weights=[5]).order(1) == EpochSampler(40, seed=2).order(1)


def test_processes_never_share_a_clip_of_a_weighted_epoch():
    lengths = [7, 200]
    for epoch in range(3):
        shares = [EpochSampler(lengths, 4, seed=3, rank=r, world=3, weights=[0.5, 0.5]).order(epoch) for r in range(3)]
        assert [len(s) for s in shares] == [68] * 3
        assert all(sum(i < 7 for i in s) == 34 for s in shares)
        assert all(not set(a) & set(b) for i, a in enumerate(shares) for b in shares[i + 1 :])
        assert {i for s in shares for i in s if i < 7} == set(range(7))


def test_a_weighted_order_goes_on_where_it_was():
    def make():
        return EpochSampler([9, 14], batch_size=4, seed=1, weights=[0.7, 0.3])

    whole = make()
    straight = whole.order(0) + whole.order(1)
    whole.advance(20 + 8)
    again = make()
    again.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert list(again) == straight[28:]
    with pytest.raises(DilaError, match=r"has weights = \[0\.7, 0\.3\], but this run has \[0\.5, 0\.5\]"):
        EpochSampler([9, 14], batch_size=4, seed=1, weights=[1, 1]).load_state_dict(whole.state_dict())


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([1.0], r"weights has 1 numbers for 2 data set\(s\)"),
        ([1.0, 0.0], r"weights = 1 0 must all be above 0"),
        ([1.0, float("nan")], "must all be above 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, told):
    with pytest.raises(DilaError, match=told):
        EpochSampler([5, 5], weights=weights)


def test_a_data_set_with_fewer_clips_than_processes_is_refused():
    with pytest.raises(DilaError, match="a data set has 1 clips for 2 processes"):
        EpochSampler([1, 50], rank=1, world=2, weights=[1, 1])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_another_number_of_processes_goes_on_with_the_same_clips_of_each_step(before, after):
    def steps(world, count, state=None):
        """The clips of each of so many steps, over all processes; and the state after them."""
        share, seen = 8 // world, [set() for _ in range(count)]
        for rank in range(world):
            sampler = EpochSampler(50, share, seed=3, rank=rank, world=world)
            sampler.load_state_dict(state or sampler.state_dict())
            for clips in seen:
                clips |= set(islice(iter(sampler), share))
                sampler.advance(share)
        return seen, sampler.state_dict()

    whole, _ = steps(before, 10)
    begun, state = steps(before, 4)
    rest, _ = steps(after, 6, state)
    assert begun + rest == whole
    with pytest.raises(DilaError, match="batch = 8, but this run has 6"):
        EpochSampler(50, 3, seed=3, rank=0, world=2).load_state_dict(state)
