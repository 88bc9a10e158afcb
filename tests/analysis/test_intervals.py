import numpy as np
import pytest
import torch
from scipy import stats

from dila.analysis.intervals import (
    compare_paired,
    compare_seeds,
    holm,
    mean_interval,
    ratio_interval,
    seed_interval,
    students_t,
    wilson,
)


def test_episodes_that_differ_widen_the_interval():
    episode = torch.arange(20).repeat_interleave(30)
    noise = torch.randn(600)
    alone, apart = (mean_interval(noise + shift, episode) for shift in (0, torch.randn(20)[episode]))
    assert alone.low < float(noise.mean()) < alone.high
    assert apart.high - apart.low > 3 * (alone.high - alone.low)
    assert mean_interval(noise, episode) == mean_interval(noise, episode)


def test_a_ratio_is_of_sums_not_of_rows():
    bottom = torch.tensor([1.0, 3.0, 1.0, 3.0])
    told = ratio_interval(0.5 * bottom, bottom, torch.arange(4))
    assert told == pytest.approx((0.5, 0.5))


def test_the_interval_over_seeds_is_students():
    values = [0.5, 0.6, 0.55, 0.7, 0.52]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert seed_interval(values) == pytest.approx(expected, rel=1e-4)
    assert seed_interval([0.5]) is None


@pytest.mark.parametrize("freedom", [1, 2, 5, 29, 400])
def test_students_t_is_scipys(freedom):
    assert students_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_the_interval_of_few_episodes_is_students_and_holds_the_truth():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, generator=generator).double()
    expected = stats.t.interval(0.95, 5, float(values.mean()), stats.sem(values.numpy()))
    assert mean_interval(values.repeat_interleave(3), torch.arange(6).repeat_interleave(3)) == pytest.approx(
        expected, rel=1e-4
    )
    intervals = [mean_interval(torch.randn(6, generator=generator), torch.arange(6)) for _ in range(300)]
    assert sum(low <= 0 <= high for low, high in intervals) >= 0.92 * 300


def test_the_interval_of_a_ratio_is_the_jackknifes():
    top, bottom = torch.rand(8).double(), torch.rand(8).double() + 0.5
    without = (top.sum() - top) / (bottom.sum() - bottom)
    ratio = float(top.sum() / bottom.sum())
    low, high = ratio_interval(top, bottom, torch.arange(8))
    error = float(((without - ratio).square().sum() * 7 / 8).sqrt())
    assert (low, high) == pytest.approx((ratio - students_t(7) * error, ratio + students_t(7) * error))


def test_a_real_difference_is_found_and_none_is_not():
    episode = torch.arange(30).repeat_interleave(4)
    clip = 3 * torch.randn(30)[episode]  # clips differ far more than models
    first = clip + 0.1 * torch.randn(120)
    better = compare_paired(first, first + 0.1 + 0.1 * torch.randn(120), episode)
    same = compare_paired(first, first + 0.1 * torch.randn(120), episode)
    assert better.difference == pytest.approx(-0.1, abs=0.04)
    assert better.low < better.difference < better.high < 0
    assert better.p_permutation < 0.01
    assert better.p_wilcoxon < 0.01
    assert same.p_permutation > 0.02
    assert better.episodes == 30
    identical = compare_paired(first, first, episode)
    assert (identical.p_permutation, identical.p_wilcoxon) == (1.0, None)


@pytest.mark.parametrize("episodes", [2, 5, 8])
def test_few_episodes_cannot_be_surer_than_a_sign_test(episodes):
    told = compare_paired(torch.rand(24), torch.rand(24) + 2, torch.arange(24) % episodes)
    assert told.high < 0
    assert told.p_permutation == 2 ** (1 - episodes)


def test_one_episode_or_a_value_that_is_not_finite_is_no_test_and_has_no_interval():
    values, episode = torch.rand(20), torch.arange(20) % 4
    broken = values.clone()
    broken[3] = torch.nan
    for first, owners in ((values, torch.zeros_like(episode)), (broken, episode), (values / 0, episode)):
        assert mean_interval(first, owners) is None
        assert ratio_interval(first, torch.ones(20), owners) is None
        assert compare_paired(first, torch.rand(20), owners)[1:5] == (None, None, None, None)
    assert seed_interval([0.5, torch.nan]) is None
    assert compare_seeds({0: 0.5, 1: torch.nan}, {0: 0.5, 1: 0.25}) is None


def test_the_test_is_scipys():
    x, y = torch.randn(12), torch.randn(12)
    told = compare_paired(x, y, torch.arange(12))
    expected = stats.wilcoxon((x.double() - y.double()).numpy()).pvalue
    assert told.p_wilcoxon == pytest.approx(expected)


def test_holm_adjusts_for_the_number_of_tests_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([torch.nan, 0.0001, None, 0.001]) == [None, pytest.approx(0.0002), None, pytest.approx(0.001)]


@pytest.mark.parametrize("episodes", [6, 12, 17])
def test_under_no_difference_sign_flips_are_rarely_sure(episodes):
    generator = torch.Generator().manual_seed(0)
    draws = [
        compare_paired(torch.randn(episodes, generator=generator), torch.zeros(episodes), torch.arange(episodes))
        for _ in range(300)
    ]
    assert 0.01 * 300 <= sum(told.p_permutation <= 0.05 for told in draws) <= 0.075 * 300


def test_sign_flips_are_scipys():
    x, y = torch.randn(9), torch.randn(9)
    told = compare_paired(x, y, torch.arange(9))
    expected = stats.permutation_test(
        ((x.double() - y.double()).numpy(),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert told.p_permutation == pytest.approx(expected.pvalue)


def test_seeds_are_paired_by_students_test():
    first = {0: 0.5, 1: 0.72, 2: 0.61, 3: 0.8, 9: 0.1}
    second = {0: 0.55, 1: 0.74, 2: 0.68, 3: 0.83, 4: 0.2}
    told = compare_seeds(first, second)
    both = [[values[seed] for seed in range(4)] for values in (first, second)]
    expected = stats.ttest_rel(*both)
    assert told.p == pytest.approx(expected.pvalue)
    assert (told.low, told.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-5)
    assert (told.difference, told.seeds) == (pytest.approx(-0.0425), 4)
    assert compare_seeds({0: 0.5, 1: 0.2}, {0: 0.5, 2: 0.2}) is None


def test_differences_that_are_all_the_same_are_none_or_say_nothing():
    assert compare_seeds({0: 0.5, 1: 0.25}, {0: 0.25, 1: 0.0}) is None
    assert compare_seeds({0: 0.3, 1: 0.4}, {0: 0.1, 1: 0.2}) is None  # 0.3 - 0.1 is 0.2 but for the rounding
    assert compare_seeds({0: 0.5, 1: 0.25}, {0: 0.5, 1: 0.25}).p == 1
    assert compare_seeds({0: 0.5, 1: 0.25}, {0: 0.5 + 1e-12, 1: 0.25 + 1e-12}).p == 1


def test_wilsons_interval():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 10)[1] == pytest.approx(0.2775, abs=1e-4)
    assert wilson(0, 0) == (0, 1)
