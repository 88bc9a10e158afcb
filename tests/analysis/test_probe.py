import json

import pytest
import torch
from sklearn.linear_model import Ridge

from dila.analysis.mlp_probe import fit_mlp
from dila.analysis.probe import ALPHAS, chance, feature_changes, probe
from dila.errors import DilaError


def linear(episodes=20, rows=15, dx=6, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes * rows, dx, generator=generator) * torch.arange(1.0, dx + 1) + 3
    y = x @ torch.randn(dx, 2, generator=generator) + 5
    y = y + noise * y.std() * torch.randn(y.shape, generator=generator)
    return x, y, torch.arange(episodes).repeat_interleave(rows)


def test_a_linear_map_is_found():
    result = probe(*linear())
    assert result.r2 == pytest.approx(1, abs=1e-6)
    assert result.mse < 1e-6
    assert (result.train_episodes, result.test_episodes) == (14, 6)
    assert (result.train_rows, result.test_rows) == (210, 90)


@pytest.mark.parametrize("dx", [5, 300])
def test_both_forms_are_scikit_learns_ridge(dx):
    x, y, episode = linear(dx=dx, noise=0.5)
    test = episode >= 14
    result = probe(x, y, episode, held_out=test, alphas=[0.3])
    train = x[~test].double()
    mean, std = train.mean(0), train.std(0, correction=0)
    ridge = Ridge(alpha=0.3 * len(train)).fit(((train - mean) / std).numpy(), y[~test].numpy())
    expected = ridge.predict(((x[test] - mean) / std).numpy())
    error = (torch.from_numpy(expected) - y[test].double()).square()
    assert result.mse == pytest.approx(float(error.mean()), rel=1e-4)
    r2 = 1 - error.sum(0) / (y[test].double() - y[test].double().mean(0)).square().sum(0)
    assert result.r2_by_component == pytest.approx(r2.tolist(), rel=1e-4)


def test_noise_is_not_explained_and_the_interval_holds_the_score():
    x, y, episode = linear(episodes=40, noise=1.0)
    result = probe(x, y, episode)
    assert result.r2_interval.low < result.r2 < result.r2_interval.high
    assert result.mse_interval.low < result.mse < result.mse_interval.high
    assert 0.2 < result.r2 < 0.8
    assert result.r2_interval.high - result.r2_interval.low < 0.4


def test_the_interval_is_wider_when_episodes_differ():
    x, y, episode = linear(episodes=30, rows=20)
    alike = probe(x, y + torch.randn(len(y), 2), episode)
    apart = probe(x, y + torch.randn(30, 2).repeat_interleave(20, 0), episode)
    width = [r.mse_interval.high - r.mse_interval.low for r in (alike, apart)]
    assert width[1] > 2 * width[0]


def test_one_held_out_episode_has_no_interval():
    x, y, episode = linear(noise=1.0)
    told = probe(x, y, episode, held_out=episode == 0)
    assert (told.r2_interval, told.mse_interval) == (None, None)
    assert 0 < told.r2 < 1
    assert json.loads(json.dumps(told.to_json()))["r2_interval"] is None


def test_the_penalty_is_chosen_where_it_matters():
    x, y, episode = linear(dx=60, episodes=10, rows=10, noise=2.0)
    chosen = probe(x, y, episode)
    assert chosen.alpha in ALPHAS
    assert chosen.alpha > 1e-3
    assert chosen.r2 > probe(x, y, episode, alphas=[1e-6]).r2


def test_shuffled_labels_score_nothing():
    x, y, episode = linear(episodes=40)
    result = chance(x, y, episode)
    assert result.r2 < 0.05
    assert probe(x, y, episode).r2 > 0.99
    assert result.test_rows == probe(x, y, episode).test_rows


def test_what_only_the_episode_tells_does_not_help():
    episode = torch.arange(20).repeat_interleave(10)
    x = torch.nn.functional.one_hot(episode, 20).float()
    y = torch.randn(20, 1)[episode]
    assert probe(x, y, episode).r2 < 0.1


def test_still_channels_and_components_do_no_harm():
    x, y, episode = linear()
    x = torch.cat([x, torch.full((len(x), 1), 1e6)], 1)
    y = torch.cat([y, torch.full((len(y), 1), 4.2)], 1)
    result = probe(x, y, episode)
    assert result.r2_by_component[2] is None
    assert result.r2 == pytest.approx(1, abs=1e-4)


def test_the_same_seed_gives_the_same_result_and_another_does_not():
    data = linear(noise=1.0)
    assert probe(*data, seed=1) == probe(*data, seed=1)
    assert probe(*data, seed=1) != probe(*data, seed=2)


def test_the_result_is_json():
    told = json.loads(json.dumps(probe(*linear(noise=1.0)).to_json(), allow_nan=False))
    assert told["r2_interval"]["low"] <= told["r2"]
    assert len(told["r2_by_component"]) == 2


def test_feature_changes_are_rows_of_transitions():
    e = torch.randn(2, 4, 3, 3, 5)
    x = feature_changes(e)
    assert x.shape == (6, 45)
    torch.testing.assert_close(x[4], (e[1, 2] - e[1, 1]).flatten())


def test_bad_input_is_refused():
    x, y, episode = linear()
    with pytest.raises(DilaError, match="y contains values that are not finite"):
        probe(x, y.log(), episode)
    with pytest.raises(DilaError, match="at least 4 episodes"):
        probe(x, y, episode % 3)
    with pytest.raises(DilaError, match="whole episodes"):
        probe(x, y, episode, held_out=torch.arange(len(x)) % 2 == 0)
    for fit in (None, fit_mlp):
        with pytest.raises(DilaError, match=r"at least 2 training episodes, .*; hold out fewer"):
            probe(x, y, episode % 4, held_out=episode % 4 > 0, fit=fit)
    with pytest.raises(DilaError, match="no component of y varies"):
        probe(x, torch.ones_like(y), episode)
