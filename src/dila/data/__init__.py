"""Data: corpora, clips and recordings. Importing this package imports neither PyAV, pyarrow, h5py nor a simulator."""

from dila.data.clips import Clip, Clips, TooShort, Unreadable, collate_clips
from dila.data.corpus import READERS, Corpus, Skipped, digest, open_corpus, split_episodes
from dila.data.examples import example_clips
from dila.data.frames import FrameEpisode
from dila.data.loader import load_clips
from dila.data.mixture import Mixture, name_data
from dila.data.motion import Motion, MotionLimits, judge, measure_motion, sort_by_motion
from dila.data.order import EpochSampler
from dila.data.primitives import KINDS, render_primitives
from dila.data.pusht import record_pusht
from dila.data.recording import Recorded, record
from dila.data.remote import fetch
from dila.data.table import read_table, write_table
from dila.data.video import VideoEpisode, VideoInfo, probe_video, read_video, write_video

__all__ = [
    "KINDS", "READERS", "Clip", "Clips", "Corpus", "EpochSampler", "FrameEpisode", "Mixture", "Motion",
    "MotionLimits", "Recorded", "Skipped", "TooShort", "Unreadable", "VideoEpisode", "VideoInfo", "collate_clips",
    "digest", "example_clips", "fetch", "judge", "load_clips", "measure_motion", "name_data", "open_corpus",
    "probe_video", "read_table", "read_video", "record", "record_pusht", "render_primitives", "sort_by_motion",
    "split_episodes", "write_table", "write_video",
]  # fmt: skip
