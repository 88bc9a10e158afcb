import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dila.cli.main import main
from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.model.config import Discrete, Gaussian, NoAction
from dila.model.dila import DiLA, count_parameters
from dila.recipes import ABLATIONS, recipe
from dila.recipes.ablations import ablated
from dila.train.objectives import OneStep
from dila.train.run import Run, Stage

RECIPES = ("tiny_pusht", "small", "paper")
SAME = {
    ("z-32", "tiny_pusht"), ("pairwise", "tiny_pusht"), ("no-symmetry-loss", "tiny_pusht"), ("z-128", "small"),
    ("bidirectional", "small"), ("z-256", "paper"), ("bidirectional", "paper"),
}  # fmt: skip
"""What the recipe is already."""


@pytest.mark.parametrize("of", RECIPES)
@pytest.mark.parametrize("name", ABLATIONS)
def test_each_changes_every_recipe_and_survives_json(name, of):
    if (name, of) in SAME:
        with pytest.raises(DilaError, match=f"ablation {name} does not change recipe {of}"):
            recipe(f"ablation:{name}@{of}")
        return
    run, full = recipe(f"ablation:{name}@{of}"), recipe(of)
    assert run.name == f"ablation:{name}@{of}"
    assert (run.steps, run.batch, run.clips, run.optimiser) == (full.steps, full.batch, full.clips, full.optimiser)
    assert from_json(Run, json.loads(json.dumps(to_json(run)))) == run


@pytest.mark.parametrize("of", RECIPES)
def test_without_content_the_capacity_is_the_same(of):
    with torch.device("meta"):
        full, without = (count_parameters(DiLA(recipe(name).model)) for name in (of, f"ablation:no-content@{of}"))
    assert without == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize("name", ["discrete", "gaussian", *(f"z-{width}" for width in (2, 8, 128, 512))])
@pytest.mark.parametrize("of", RECIPES)
def test_another_bottleneck_does_not_change_the_capacity(name, of):
    if (name, of) in SAME:
        return
    with torch.device("meta"):
        full, other = (count_parameters(DiLA(recipe(name).model)) for name in (of, f"ablation:{name}@{of}"))
    assert other == pytest.approx(full, rel=0.15 if of == "tiny_pusht" else 0.05)


def test_the_papers_are_the_papers():
    content, discrete, gaussian = (recipe(f"ablation:{name}@paper") for name in ("no-content", "discrete", "gaussian"))
    assert content.model.structure_dim == 128
    assert discrete.model.bottleneck == Discrete(codes=8, tokens=4 * 4)
    assert discrete.model.action_dim == 4 * 4 * 32
    assert gaussian.model.bottleneck == Gaussian()
    assert {stage.objective.terms.weights.kl for stage in gaussian.stages} == {1e-4}


def test_without_action_every_stage_reconstructs_and_nothing_else():
    run = recipe("ablation:no-action@paper")
    assert run.model.bottleneck == NoAction()
    assert {type(stage.objective) for stage in run.stages} == {OneStep}
    weights = [to_json(stage.objective.terms.weights) for stage in run.stages]
    assert all({name for name, weight in each.items() if weight} == {"feature"} for each in weights)


def test_an_unknown_one_lists_the_known():
    with pytest.raises(DilaError, match="unknown ablation 'no-luck': choose one of no-content, discrete"):
        recipe("ablation:no-luck")
    with pytest.raises(DilaError, match="unknown recipe 'huge'"):
        recipe("ablation:discrete@huge")


def test_a_smaller_run_of_ones_own_can_be_ablated_too():
    run = replace(recipe("tiny_pusht"), batch=2)
    assert ablated("z-2", run) == replace(run, model=replace(run.model, action_dim=2))


def test_help_lists_them_all(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    told = capsys.readouterr().out
    assert all(f"ablation:{name} " in told for name in ABLATIONS)


def test_each_is_in_the_table_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "ablations.md").read_text()
    missing = [name for name in ABLATIONS if not name.startswith("z-") and f"`{name}`" not in page]
    assert missing == []


def test_its_fields_are_flags(capsys):
    with pytest.raises(SystemExit):
        main(["train", "ablation:discrete", "--help"])
    told = capsys.readouterr().out
    assert "--model.bottleneck.codes" in told
    assert "ablation-discrete" in told


def test_no_loss_is_switched_off_in_an_objective_of_ones_own():
    @dataclass(frozen=True)
    class Own:
        def __call__(self, model, batch):
            raise NotImplementedError

    with pytest.raises(DilaError, match="Own has no loss terms to change"):
        ablated("no-norm-loss", replace(recipe("tiny_pusht"), stages=(Stage(Own(), 2),)))


def test_a_bidirectional_idm_has_the_papers_symmetry_in_place_of_its_own():
    tiny, run = recipe("tiny_pusht"), recipe("ablation:bidirectional")
    assert run.model == replace(tiny.model, idm=replace(tiny.model.idm, pairwise=False, odd=False, normalise=True))
    assert [stage.objective.terms.weights.symmetry for stage in run.stages] == [0.001] * 3
    paper = recipe("paper")
    there = ablated(
        "bidirectional", replace(paper, model=replace(paper.model, idm=replace(paper.model.idm, pairwise=True)))
    )
    assert there == paper
