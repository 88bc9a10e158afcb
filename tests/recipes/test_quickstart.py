import re

import dila
from dila.recipes.quickstart import quickstart


def test_the_report_has_its_numbers_and_their_baselines(first_look):
    report = first_look.report
    assert report["rollout_error_vs_copy_last"] > 0
    assert len(report["rollout"]["by_horizon"]) == 8
    for name in ("probe_r2", "probe_r2_chance", "probe_r2_feature_differences"):
        assert report[name] <= 1
    assert report["probe"]["z"]["test_episodes"] > 0
    assert report["seconds"] >= sum(report["seconds_by_part"].values()) - 0.5


def test_the_page_stands_alone_and_shows_everything(first_look):
    page = (first_look.folder / "report.html").read_text()
    assert set(re.findall(r"src='(\w+:)", page)) == {"data:"}
    assert page.count("<video") == 2
    assert page.count("<img") == 4
    for title in ("Rollouts", "What z contains", "Action transfer", "Rebinding", "Structure"):
        assert f"<h2>{title}</h2>" in page


def test_what_it_trained_loads_and_can_draw(first_look):
    world = dila.load(first_look.folder / "run")
    video = sorted((first_look.folder / "pusht").glob("*.mp4"))[0]
    assert world.draw(world.rollout(video, steps=3)).shape == (3, 3, 32, 32)


def test_called_again_it_trains_nothing_anew(first_look):
    log = (first_look.folder / "run" / "log.jsonl").read_text()
    again = quickstart(first_look.folder, first_look.run, episodes=12, frames=30)
    assert (first_look.folder / "run" / "log.jsonl").read_text() == log
    assert again["rollout_error_vs_copy_last"] == first_look.report["rollout_error_vs_copy_last"]
    assert again["seconds"] > first_look.report["seconds"]
