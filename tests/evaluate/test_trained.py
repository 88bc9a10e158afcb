"""No model is judged on what it was trained on."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dila.data import open_corpus
from dila.errors import DilaError
from dila.evaluate.bench import Settings, open_bench
from dila.evaluate.pins import make_pins
from dila.evaluate.trained import Trained
from dila.train.register import REGISTER, TRAIN, LostEpisode


def test_a_run_is_judged_on_what_it_held_out(first_look, tmp_path):
    folder, settings = first_look.folder, Settings(frames=6, clips=2)
    options = {"device": "cpu", "cache_dir": folder / "features"}
    data = str(folder / "pusht")
    own = open_bench(folder / "run", data, tmp_path, settings, **options)
    register = pq.read_table(folder / "run" / "episodes.parquet").to_pylist()
    assert [e.id for e in own.held] == [row["episode"] for row in register if row["split"] == "held out"]
    refused = r"run was trained on \d+ of the \d+ episodes to be judged, the first episode_\d+\.mp4; .* 0\.1,"
    for path in (data, f"{data}/."):
        with pytest.raises(DilaError, match=refused):
            open_bench(folder / "run", path, tmp_path, settings, held_out=0.5, **options)
    pins = make_pins(open_corpus(data).episodes, own.world.stride, 4, 12)
    with pytest.raises(DilaError, match=refused):
        open_bench(next((folder / "run" / "checkpoints").iterdir()), data, tmp_path, settings, pins=pins, **options)


def test_a_run_of_another_share_holds_out_its_own_and_knows_a_part_of_its_data(tmp_path):
    rows = [("all", part, f"pusht/{name}.mp4", 30) for name, part in (("a", TRAIN), ("b", "held out"))]
    told = zip(("data", "split", "episode", "frames"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(values) for name, values in told}), tmp_path / REGISTER)
    (tmp_path / "run.json").write_text('{"clips": {"held_out": 0.02}}')
    run = Trained.find(tmp_path)
    assert run.held_out == 0.02

    def episode(name, frames=30):
        return LostEpisode(name, np.arange(frames) / 10, {})

    for data, judged in (("all/pusht", [episode("b.mp4"), episode("a.mp4", 31)]), ("other/pusht", [episode("a.mp4")])):
        run.refuse(data, judged)
    for data, name in (("data/all", "pusht/a.mp4"), ("all/pusht", "a.mp4")):
        with pytest.raises(DilaError, match=r"1 of the 2 episodes .* 0\.02,"):
            run.refuse(data, [episode(name), episode("b.mp4")])
