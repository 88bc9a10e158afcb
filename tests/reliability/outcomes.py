"""What interrupted work leaves, as values that can be compared, and whether all that is in sight is whole."""

import json
import os
import signal

import pyarrow.parquet as pq
import victims

from dila.data import open_corpus
from dila.errors import DilaError
from dila.evaluate.result import read_results
from dila.interop.pretrained import load_pretrained
from dila.train.checkpoint import load_trainer, newest
from dila.vision.shards import read_header

STOPPED = {0, 143, 130, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL, 1}
"""How a process may end: done, stopped and saved, by the signal itself, or (1) with Python's own KeyboardInterrupt."""


def of_training(folder):
    """All that training leaves, and so: weights, moments, the order of clips, the log, the decoder, the register."""
    run = folder / "run"
    last = newest(run)
    state = load_trainer(last)
    pretrained = load_pretrained(last)
    moments = {f"{i}.{k}": v for i, part in state.optimiser["state"].items() for k, v in part.items()}
    return {
        "weights": victims.digest(pretrained.model.state_dict()),
        "decoder": victims.digest(pretrained.decoder.state_dict()),
        "moments": victims.digest(moments),
        "random": victims.digest({"torch": state.random[0]["torch"]}),
        "order": (state.step, state.stage, state.sampler),
        "log": victims.records(run / "log.jsonl"),
        "register": victims.files(run)["episodes.parquet"],
        # Which steps are kept depends on when a signal came; how many, and that nothing else lies there, does not.
        "checkpoints": (len(os.listdir(run / "checkpoints")), last.name),
    }


def of_cache(folder):
    """Every tensor, and the shards that have it: each once."""
    found = {}
    for shard in sorted(folder.rglob("shard-*.safetensors")):
        first, places = read_header(shard)
        data = shard.read_bytes()
        for key, place in places.items():
            begin, end = place["data_offsets"]
            assert key not in found, "a tensor lies in two shards"
            found[key] = hash(data[first + begin : first + end])
    return found


def of_evaluation(folder):
    """Scores, rows and notes as they were written, and every picture; not how long it took."""
    judged = folder / "judged"
    told = json.loads((judged / "evaluation.json").read_text())
    for result in told["results"]:
        del result["seconds"], result["subject"]["path"]
    return told, victims.files(judged / "pictures", hidden=False)


RESULTS = {
    "train": of_training,
    "encode": of_cache,
    "label": victims.files,
    "record": victims.files,
    "record_lerobot": victims.files,
    "evaluate": of_evaluation,
}


def check_whole(folder):
    """Whatever can be seen at this moment can be read."""
    for checkpoint in (folder / "run" / "checkpoints").glob("[!.]*"):
        load_pretrained(checkpoint)
        load_trainer(checkpoint)
    for shard in folder.rglob("shard-*.safetensors"):
        read_header(shard)
    for table in folder.glob("*.parquet"):
        assert pq.read_table(table).num_rows
    if (folder / "judged" / "evaluation.json").is_file():
        assert read_results(folder / "judged" / "evaluation.json")
    if (folder / "recorded").is_dir():
        check_recorded(folder / "recorded")


def check_recorded(folder):
    told = ""
    try:
        corpus = open_corpus(folder)
    except DilaError as error:  # not an episode yet
        told = str(error)
    if told:
        assert "has no" in told or "no table of the episodes" in told
        return
    assert corpus.skipped == ()
    for episode in corpus.episodes:
        assert len(episode.read([0, 4])) == 2
        assert len(episode.columns["action"]) == 5


def finish(verb, folder, corpus):
    process = victims.start(verb, folder, corpus)
    assert victims.told(process) == ""
    assert process.exitcode == 0
