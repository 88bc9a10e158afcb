import pytest

from dila.evaluate.parameters import sizes

ROWS = {(row.model, row.size): row for row in sizes()}


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row.published])
def test_published_sizes_are_met_within_5_percent(key):
    assert ROWS[key].parameters == pytest.approx(ROWS[key].published, rel=0.05)


def test_every_model_has_a_published_size():
    assert {row.model for row in ROWS.values() if row.published} == {row.model for row in ROWS.values()}


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("model", ["lapa", "moto", "adaworld", "villax"])
def test_the_others_have_dilas_parameters_and_features(model, size):
    row, dila = ROWS[model, size], ROWS["dila", size]
    assert row.features == dila.features
    assert row.parameters == pytest.approx(dila.parameters, rel=0.1)
