import json
import math

import pytest
import torch

from dila.cli.main import main
from dila.errors import DilaError
from dila.interop.actions import ActionSpace, LatentToAction, load_actions, save_actions
from dila.interop.card import _PAPERS, model_card, run_numbers
from dila.interop.models import MODELS
from dila.interop.pack import pack
from dila.interop.pretrained import load_pretrained, read_notes, save_pretrained


@pytest.fixture
def run(pretrained, tmp_path):
    """A run as training leaves it, beside the quickstart's report."""
    folder = tmp_path / "run"
    save_pretrained(folder / "checkpoints" / "step_0000007", pretrained, {"run": "mine", "step": 7})
    (folder / "run.json").write_text("{}")
    lines = [{"kind": "evaluation", "rollout_ratio": 0.9}, {"kind": "train"}]
    lines += [{"kind": "evaluation", "rollout_ratio": 0.61, "one_step_ratio": 0.7, "clips": 16}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut sh')
    return folder


def test_half_the_size_and_the_same_predictions(run, pretrained, tmp_path):
    folder = pack(run, tmp_path / "small")
    whole = (run / "checkpoints" / "step_0000007" / "model.safetensors").stat().st_size
    assert (folder / "model.safetensors").stat().st_size < 0.6 * whole
    small = load_pretrained(folder)
    assert {p.dtype for p in small.model.parameters()} == {torch.float32}
    e = torch.randn(1, 5, 4, 4, 40)
    with torch.no_grad():
        z, e_hat = pretrained.model.infer(e), pretrained.model(e).e_hat
        assert (small.model.infer(e) - z).norm() < 3e-3 * z.norm()
        assert (small.model(e).e_hat - e_hat).norm() < 3e-3 * e_hat.norm()
    assert (small.decoder.decode(e) - pretrained.decoder.decode(e)).abs().max() < 3e-3


def test_numbers_that_float16_cannot_hold_are_refused_and_nothing_is_left(pretrained, tmp_path):
    with torch.no_grad():
        next(pretrained.model.parameters()).view(-1)[0] = 1e6
    with pytest.raises(DilaError, match="too large for float16"):
        save_pretrained(tmp_path / "model", pretrained, half=True)
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_what_the_run_measured(run, tmp_path):
    folder = pack(run, tmp_path / "small", {"data": "ten clips", "limits": "cannot fly"})
    card = (folder / "README.md").read_text()
    assert "| 0.610 |" in card
    assert "mine (7 steps)" in card
    assert "ten clips" in card
    assert "cannot fly" in card
    assert read_notes(folder)["scores"] == {"rollout_ratio": 0.61, "one_step_ratio": 0.7}


def test_a_report_beside_the_run_goes_before_its_last_evaluation(run):
    (run.parent / "report.json").write_text('{"rollout_error_vs_copy_last": 0.5, "probe_r2": 0.8}')
    scores = {"one_step_ratio": 0.7, "rollout_error_vs_copy_last": 0.5, "probe_r2": 0.8}
    assert run_numbers(run) == run_numbers(run / "checkpoints" / "step_0000007") == scores


def test_scores_of_several_data_sets_are_tables_of_their_own(pretrained):
    card = model_card(pretrained, {"scores": {"pusht": {"probe_r2": 0.5}, "objects": {"probe_r2": 0.4}}})
    assert "### pusht" in card
    assert card.index("### objects") > card.index("| 0.500 |")
    with pytest.raises(DilaError, match="probe_r2 should be a number"):
        model_card(pretrained, {"scores": {"probe_r2": "good"}})


def test_the_hub_reads_the_scores_of_the_card(pretrained):
    from huggingface_hub import ModelCard

    scores = {
        "rollout_ratio": 0.6,
        "rank_z": 3,
        "pusht": {"probe_r2": 0.5},
        "objects": {"probe_r2": 0.4, "nan": math.nan},
    }
    told = ModelCard(
        model_card(pretrained, {"title": "ours: the 2nd", "scores": scores}), ignore_metadata_errors=False
    ).data
    assert (told.library_name, told.license, told.pipeline_tag) == ("dila", "mit", "image-to-video")
    assert told.tags == ["world-model", "latent-action", "video", "dila"]
    assert told.model_name == "ours: the 2nd"
    assert [(each.dataset_name, each.metric_type, each.metric_value) for each in told.eval_results] == [
        ("held-out episodes", "rollout_ratio", 0.6), ("held-out episodes", "rank_z", 3),
        ("pusht", "probe_r2", 0.5), ("objects", "probe_r2", 0.4),
    ]  # fmt: skip
    assert told.eval_results[1].metric_name == "effective rank of z"
    bare = ModelCard(model_card(pretrained, {})).data
    assert (bare.eval_results, bare.model_name, bare.library_name) == (None, None, "dila")


def test_packed_again_it_keeps_what_was_said(run, tmp_path):
    first = pack(run, tmp_path / "first", {"limits": "cannot fly"})
    second = pack(first, tmp_path / "second", half=False)
    assert (second / "README.md").read_text() == (first / "README.md").read_text()


@pytest.mark.parametrize("where", ["run", "run/checkpoints/step_0000007", "run/checkpoints/step_0000008", "."])
def test_it_is_packed_apart_from_where_it_is_read(where, run, tmp_path):
    before = load_pretrained(run).model.state_dict()
    with pytest.raises(DilaError, match="choose a separate folder"):
        pack(run, tmp_path / where)
    assert all(tensor.equal(before[name]) for name, tensor in load_pretrained(run).model.state_dict().items())


def test_what_adapting_made_comes_along(pretrained, tmp_path):
    folder = save_pretrained(tmp_path / "adapted", pretrained)
    space = ActionSpace(("x",), 1, (), (0.0,), (1.0,), (2.0,), 0.5, None)
    save_actions(folder, space, LatentToAction(torch.ones(8, 1), torch.zeros(1)))
    for _ in range(2):  # packed again over the first
        there, inverse = load_actions(pack(folder, tmp_path / "small"))
        assert there == space
        assert inverse.weight.equal(torch.ones(8, 1))


def test_without_decoder_the_card_says_so(pretrained):
    bare = pretrained._replace(decoder=None)
    assert "| draws with | none |" in model_card(bare, {})


def test_the_command(run, tmp_path, capsys):
    assert main(["pack", str(run), "--out", str(tmp_path / "small"), "--limits", "none"]) == 0
    assert "README.md" in capsys.readouterr().out
    assert main(["pack", str(tmp_path / "nothing"), "--out", str(tmp_path / "small")]) == 2


def test_the_card_names_the_model_and_what_makes_it_known(pretrained):
    assert "(DiLA, arXiv 2605.15725)" in model_card(pretrained, {})
    assert "import dila\n\nworld" in model_card(pretrained, {})
    own = type("Nine", (type(pretrained.model),), {"__module__": "ninelam.lam"})
    card = model_card(pretrained._replace(model=own(pretrained.model.config)), {})
    assert "(Nine): infers" in card
    assert "import dila\nimport ninelam  # defines the model\n" in card
    assert all(kind.model.__name__ in _PAPERS for kind in MODELS.values())
