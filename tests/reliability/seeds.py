"""Tiny true files of every format that is read: what fuzzing starts from."""

import json
import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from train_world import PatchEncoder, small_model

from dila.data import open_corpus, write_table, write_video
from dila.data.lerobot_write import LeRobotV3
from dila.data.primitives import render_primitives
from dila.interop.pretrained import Pretrained, save_pretrained
from dila.interop.released import save_released
from dila.model.config import DiLAConfig
from dila.model.dila import DiLA
from dila.train.checkpoint import TrainerState, random_state
from dila.vision import ConvDecoder, ConvDecoderConfig, FeatureCache, FeatureStatistics

COUNT, SIDE = 6, 16


def frames():
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=noise)


def images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(frames().permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")


def coded(path, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 10)
        for picture in frames().permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def mp4(root):
    write_video(root / "a.mp4", frames(), 10)


def webm(root):
    coded(root / "a.webm", "libvpx-vp9")


def avi(root):
    coded(root / "a.avi", "mpeg4")


def gif(root):
    write_video(root / "a.gif", frames(), 10)


def pictures(root):
    images(root / "a")
    (root / "a" / "meta.json").write_text('{"fps": 5}')


def with_table(root):
    images(root / "a")
    write_table(root / "actions.parquet", {"a": {"action": np.ones((COUNT, 2), np.float32)}}, {"action": ("x", "y")})


def hdf5(root):
    rgb = frames().permute(0, 2, 3, 1).numpy()
    with h5py.File(root / "robomimic.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        group["obs/agentview_image"], group["obs/robot0_eef_pos"] = rgb, np.zeros((COUNT, 3))
        group["actions"] = np.zeros((COUNT, 7))
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        file["mask/train"] = np.array([b"demo_0"])
    with h5py.File(root / "worldmodel.h5", "w") as file:
        file.create_dataset("pixels", data=rgb, compression="gzip", chunks=(1, SIDE, SIDE, 3))
        file["action"], file["ep_len"], file["ep_offset"] = np.zeros((COUNT, 2)), [2, 4], [0, 2]
    with h5py.File(root / "recon.hdf5", "w") as file:
        images(root / "made")
        rows = [np.frombuffer(path.read_bytes(), np.uint8) for path in sorted((root / "made").iterdir())]
        stored = file.create_dataset("images/rgb_left", (COUNT,), dtype=h5py.vlen_dtype(np.uint8))
        for number, row in enumerate(rows):
            stored[number] = row
        file["commands/linear_velocity"], file["commands/angular_velocity"] = np.zeros(COUNT), np.zeros(COUNT)
    for path in (root / "made").iterdir():
        path.unlink()
    (root / "made").rmdir()


def lerobot3(root):
    render_primitives(root, 2, COUNT, 32, 0, "rotation", progress=False, store=LeRobotV3("turn"))


def lerobot2(root):
    names = {"data": "data/episode_{episode_index:06d}.parquet", "video": "videos/{video_key}/{episode_index:06d}.mp4"}
    features = {
        "observation.images.top": {"dtype": "video", "shape": [SIDE, SIDE, 3]},
        "observation.images.wrist": {"dtype": "image", "shape": [SIDE, SIDE, 3]},
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    }
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 1000, "features": features,
            "data_path": names["data"], "video_path": names["video"], "splits": {"train": "0:2"}}  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    images(root / "made")
    cells = [{"bytes": path.read_bytes(), "path": None} for path in sorted((root / "made").iterdir())]
    lines = []
    for number in range(2):
        write_video(root / f"videos/observation.images.top/{number:06d}.mp4", frames(), 10)
        table = pa.table({
            "action": pa.array([[1.0, 2.0]] * COUNT, pa.list_(pa.float32(), 2)), "observation.images.wrist": cells,
            "frame_index": range(COUNT), "episode_index": [number] * COUNT,
        })  # fmt: skip
        (root / "data").mkdir(exist_ok=True)
        pq.write_table(table, root / f"data/episode_{number:06d}.parquet")
        lines.append(json.dumps({"episode_index": number, "length": COUNT}))
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines))
    for path in (root / "made").iterdir():
        path.unlink()
    (root / "made").rmdir()


def trajectory(root):
    images(root / "run_0")
    state = {"position": np.zeros((COUNT, 2)), "yaw": np.zeros(COUNT)}
    (root / "run_0" / "traj_data.pkl").write_bytes(pickle.dumps(state, 4))
    (root / "lists" / "train").mkdir(parents=True)
    (root / "lists" / "train" / "traj_names.txt").write_text("run_0\n")


def something(root):
    coded(root / "7.webm", "libvpx")
    clips = [{"id": "7", "label": "Moving a thing", "template": "Moving [something]"}]
    (root / "something-something-v2-train.json").write_text(json.dumps(clips))
    (root / "something-something-v2-labels.json").write_text('{"Moving something": "0"}')


def annotated(root):
    images(root / "episode_0")
    told = {"fps": 5, "actions": [[1.0, 2.0]] * COUNT, "states": [[0.0]] * COUNT, "names": {"action": ["x", "y"]}}
    (root / "episode_0" / "actions.json").write_text(json.dumps(told))
    coded(root / "walk.avi", "mpeg4")
    record = {
        "action": {"forward": 1, "jump": 0, "camera": [0.0, 1.0]},
        "x": 1.0,
        "y": 2.0,
        "z": 3.0,
        "yaw": 1.0,
        "pitch": 0.0,
    }
    (root / "walk.json").write_text(json.dumps([record] * COUNT))


def model(root):
    torch.manual_seed(0)
    statistics = FeatureStatistics(torch.zeros(8), torch.ones(8))
    decoder = ConvDecoder(ConvDecoderConfig(8, (4, 4), 16, 8, 8))
    save_pretrained(root, Pretrained(DiLA(small_model()), PatchEncoder(statistics=statistics), decoder, 0.2, 4), {})


def trainer(root):
    weights = [torch.nn.Parameter(torch.zeros(3, 2))]
    optimiser = torch.optim.AdamW(weights)
    weights[0].sum().backward()
    optimiser.step()
    state = TrainerState(3, 0, optimiser.state_dict(), {"used": 4}, [random_state()], {}, "data", [], {"norms": [1.0]})
    root.mkdir(parents=True, exist_ok=True)
    torch.save(state._asdict(), root / "trainer.pt")


def released(root):
    own, theirs = small_model(), DiLAConfig()
    parts = {
        "idm": replace(own.idm, pairwise=theirs.idm.pairwise),
        "decoder": replace(own.decoder, predicts=theirs.decoder.predicts),
        "time_padding": theirs.time_padding,
        "grid": theirs.grid,
    }
    save_released(DiLA(replace(own, **parts)), root / "released.pt")
    torch.save({"mean": torch.zeros(1, 4, 2, 2), "var": torch.ones(1, 4, 2, 2)}, root / "stat.pt")


def shards(root):
    images(root / "a")
    FeatureCache(PatchEncoder(), root, progress=False).episodes(open_corpus(root).episodes)
    for path in (root / "a").iterdir():
        path.unlink()
    (root / "a").rmdir()


def tasks(root):
    with h5py.File(root / "goals.hdf5", "w") as file:
        for number in (1, 2):
            file[f"data/demo_{number}/states"] = np.full((COUNT, 76), float(number))
            file[f"data/demo_{number}/start_index"] = number


SEEDS = {
    "corpus": (mp4, webm, avi, gif, pictures, with_table, hdf5, lerobot3, lerobot2, trajectory, something, annotated),
    "model": (model,),
    "trainer": (trainer,),
    "released": (released,),
    "shards": (shards,),
    "tasks": (tasks,),
}


def plant(make, root: Path) -> Path:
    """The files of one seed in a folder of their own."""
    folder = root / make.__name__
    folder.mkdir(parents=True)
    make(folder)
    return folder
