"""How fast frames come off the disk: readers, loader workers, random access, encoding; prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/data.py > benchmarks/results/data.json

Two bare loops over PyAV run before and after each loader, in as many processes, on one thread each, with the converter
to RGB kept (the quickest that PyAV gives):

- `whole`: files decoded from start to end. `share_of_whole` compares frames decoded: random clips begin between
  keyframes, so frames are decoded that nobody asked for (`decoded_per_delivered`).
- `clips`: random clips of the same videos, cut like the loader's: open, seek to the keyframe, decode, convert those of
  the clip; no batches, no queues. `share_of_clips` compares frames delivered. It can pass 1: the loader opens no file
  (`dila.data.packets`), and decodes no frame that nothing needs.

Both are also given by processor time (`_cpu`), which other work on the machine disturbs less. A keyframe costs many
times what other frames do here, and a clip that begins between two needs both: 1.9 of them, where a whole file of as
many frames has 1.5. `share_of_whole` has no way round that.
"""

import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image
from torch.nn import functional as F

from dila.data import Clips, EpochSampler, Mixture, fast_video, load_clips, open_corpus, span, video
from dila.data.convert import convert
from dila.data.video import read_video, write_video
from dila.vision import FeatureCache, build_encoder

VIDEOS, FRAMES, CLIP, BATCH = 6, 300, 16, 8
SECONDS = 2.5
"""That each measurement lasts, about."""
WORKERS = (0, 1, 2)
TORCHCODEC = fast_video._torchcodec()


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        report: dict[str, Any] = {"machine": machine(), "clip": f"{CLIP} consecutive frames, anywhere in the video"}
        for size in (128, 256):
            videos = record(root / str(size), size)
            report[f"mp4_{size}"] = {name: readers(videos, fast) for name, fast in engines().items()}
        report["other_containers_128"] = containers(root / "128", root / "wrapped")
        report["frame_folder_128"] = loaders(Mixture({"x": Clips(open_corpus(unpack(root / "128")).episodes, CLIP)}))
        report["cache_128"], report["encoding_128"] = encoding(root / "128", root / "cache")
        report["random_access"] = random_access(root / "long.mp4")
        report["memory_over_10000_clips_mb"] = memory(root / "small")
    print(json.dumps(report, indent=1))


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "torchcodec": None if TORCHCODEC is None else __import__("torchcodec").__version__,
    }


def engines() -> dict[str, bool]:
    return {"pyav": False} | ({"torchcodec": True} if TORCHCODEC else {})


def record(folder: Path, size: int) -> Path:
    """Videos of a smooth texture that drifts."""
    for number in range(VIDEOS):
        generator = torch.Generator().manual_seed(number)
        ground = F.interpolate(torch.rand(1, 3, 24, 24, generator=generator), size=(2 * size, 2 * size), mode="bicubic")
        ground = (ground[0].clamp(0, 1) * 255).byte()
        drift = [(f % size, 2 * f % size) for f in range(FRAMES)]
        write_video(folder / f"{number}.mp4", torch.stack([ground[:, y:, x:][:, :size, :size] for y, x in drift]), 10)
    return folder


def unpack(videos: Path) -> Path:
    """The first frames of some of the videos as folders of JPEG."""
    folder = videos.with_name("frames")
    for path in sorted(videos.glob("*.mp4"))[:3]:
        (folder / path.stem).mkdir(parents=True)
        for f, picture in enumerate(read_video(path, range(100)).permute(0, 2, 3, 1).numpy()):
            Image.fromarray(np.ascontiguousarray(picture)).save(folder / path.stem / f"{f:04d}.jpg", quality=92)
    return folder


def bare_whole(paths: list[str], until: float) -> int:
    """Frames of files from start to end."""
    count, convert = 0, VideoReformatter()
    while time.perf_counter() < until:
        for path in paths:
            with av.open(path) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for frame in container.decode(video=0):
                    convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    count += 1
    return count


def bare_clips(paths: list[str], until: float) -> int:
    """Frames of random clips."""
    count, convert, rng = 0, VideoReformatter(), np.random.default_rng(os.getpid())
    while time.perf_counter() < until:
        start = int(rng.integers(0, FRAMES - CLIP + 1))
        with av.open(paths[int(rng.integers(len(paths)))]) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            tick = 1 / (10 * float(stream.time_base))  # ten frames a second
            container.seek(round(start * tick), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts >= round(start * tick):
                    convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
                    count += 1
                if frame.pts >= round((start + CLIP - 1) * tick):
                    break
    return count


def timed(job: tuple[Callable[[list[str], float], int], list[str]]) -> tuple[int, float, float]:
    """Frames, seconds by the clock and of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    count = job[0](job[1], began + SECONDS)
    return count, time.perf_counter() - began, time.process_time() - cpu


def at_once(loop: Callable[[list[str], float], int], paths: list[str], processes: int) -> dict[str, float]:
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        done = pool.map(timed, [(loop, paths)] * processes, chunksize=1)
    return {
        "frames_per_second": sum(count / seconds for count, seconds, _ in done),
        "frames_per_cpu_second": sum(count for count, _, _ in done) / sum(cpu for _, _, cpu in done),
    }


def readers(videos: Path, fast: bool) -> dict[str, Any]:
    fast_video._torchcodec = (lambda: TORCHCODEC) if fast else (lambda: None)
    clips = Clips(open_corpus(videos).episodes, CLIP)
    paths = [str(path) for path in sorted(videos.glob("*.mp4"))]
    made: dict[str, Any] = {"decoded_per_delivered": round(decoded_per_delivered(clips), 3)}
    for workers in WORKERS:
        loops = {"whole": bare_whole, "clips": bare_clips}
        before = {name: at_once(loop, paths, max(1, workers)) for name, loop in loops.items()}
        loader = measured(Mixture({"x": clips}), workers)
        after = {name: at_once(loop, paths, max(1, workers)) for name, loop in loops.items()}
        base = {name: {key: (before[name][key] + after[name][key]) / 2 for key in before[name]} for name in loops}
        made[f"workers_{workers}"] = compared(loader, base, made["decoded_per_delivered"])
    return made


def compared(loader: dict[str, float], base: dict[str, dict[str, float]], decoded: float) -> dict[str, float]:
    wall, cpu = "frames_per_second", "frames_per_cpu_second"
    return {
        "delivered_per_second": round(loader[wall], 1),
        "bare_whole_per_second": round(base["whole"][wall], 1),
        "bare_clips_per_second": round(base["clips"][wall], 1),
        "share_of_whole": round(loader[wall] * decoded / base["whole"][wall], 3),
        "share_of_whole_cpu": round(loader[cpu] * decoded / base["whole"][cpu], 3),
        "share_of_clips": round(loader[wall] / base["clips"][wall], 3),
        "share_of_clips_cpu": round(loader[cpu] / base["clips"][cpu], 3),
    }


def decoded_per_delivered(clips: Clips) -> float:
    """Frames that a decoder must go through for a random clip, over those of the clip."""
    counts = []
    for item in range(0, len(clips), 7):
        number, index = clips.index_of(item)
        keyframes = clips.episodes[number].info.keyframes
        counts.append(index[-1] - keyframes[np.searchsorted(keyframes, index[0], side="right") - 1] + 1)
    return float(np.mean(counts)) / CLIP


def measured(clips: Mixture, workers: int) -> dict[str, float]:
    """Frames of random clips through the loader as training has it, once it runs: its start does not count.

    Processor time is that of this process and of the workers between the first and the last batch that count, so that
    neither imports nor what workers have made ahead when it ends fall on the frames delivered.
    """
    sampler = EpochSampler(clips.lengths, BATCH)
    loader = load_clips(clips, BATCH, sampler, workers)
    batches = endless(loader, sampler)
    for _ in range(2 + 2 * workers):
        next(batches)
    began, spent, count = time.perf_counter(), processor(loader, workers), 0
    while time.perf_counter() - began < SECONDS:
        count += next(batches).frames.shape[0] * CLIP
    seconds, cpu = time.perf_counter() - began, processor(loader, workers) - spent
    batches.close()
    return {"frames_per_second": count / seconds, "frames_per_cpu_second": count / cpu}


def processor(loader: Any, workers: int) -> float:
    """Seconds of processor time that this process and the loader's workers have taken so far."""
    ticks = 0
    for worker in loader._iterator._workers if workers else ():
        told = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(told[11]) + int(told[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def endless(loader: Any, sampler: EpochSampler) -> Iterator[Any]:
    while True:
        for batch in loader:
            sampler.advance(len(batch.episode))
            yield batch


def containers(videos: Path, folder: Path) -> dict[str, Any]:
    """Milliseconds of processor time for a clip, from its packets and by opening the container."""
    fast_video._torchcodec = lambda: None
    folder.mkdir()
    rewrap(videos / "0.mp4", folder / "0.mkv")
    convert(videos, folder / "lerobot", progress=False)
    packets = span.read_packets
    made: dict[str, Any] = {}
    for name, path in {"matroska": folder / "0.mkv", "lerobot_v3": folder / "lerobot"}.items():
        clips = Clips(open_corpus(path).episodes, CLIP)
        made[name] = {}
        for how, read in {"packets": packets, "container": lambda *_: None}.items():
            video.read_packets = span.read_packets = read
            made[name][how] = round(milliseconds(clips), 2)
        video.read_packets = span.read_packets = packets
    return made


def rewrap(source: Path, target: Path) -> None:
    """The packets of a video in another container."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = stream
                written.mux(packet)


def milliseconds(clips: Clips) -> float:
    """Of processor time for a clip, the median of some at random, all episodes having been read from before."""
    times = []
    for item in np.random.default_rng(0).integers(0, len(clips), 100).tolist():
        began = time.process_time()
        clips[item]
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times[20:])


def loaders(clips: Mixture) -> dict[str, Any]:
    rates = {workers: measured(clips, workers)["frames_per_second"] for workers in WORKERS}
    return {f"workers_{workers}": {"delivered_per_second": round(rate, 1)} for workers, rate in rates.items()}


def encoding(videos: Path, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Clips of cached features, and how the cache is filled."""
    encoder = build_encoder("efficientnet-lite0")
    episodes = open_corpus(videos).episodes
    frames = episodes[0].read(range(64))[None]
    alone = rate(lambda: encoder.encode(frames), 64)
    began = time.perf_counter()
    cached = FeatureCache(encoder, folder, progress=False).episodes(episodes)
    filled = VIDEOS * FRAMES / (time.perf_counter() - began)
    about = {"encoder_alone_per_second": round(alone, 1), "decoded_encoded_and_written_per_second": round(filled, 1)}
    return loaders(Mixture({"x": Clips(cached, CLIP)})), about


def rate(work: Callable[[], Any], frames: int) -> float:
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        work()
        count += frames
    return count / (time.perf_counter() - began)


def random_access(path: Path) -> dict[str, Any]:
    """Milliseconds for a clip of 8 by its place in a video of 20,000 frames (half an hour at 11 a second)."""
    count = 20_000
    tile = F.interpolate(torch.rand(1, 3, 8, 8), size=(64, 64), mode="bicubic")[0].clamp(0, 1).mul(255).byte()
    write_video(path, torch.stack([tile.roll(f % 64, -1) for f in range(count)]), 10)
    (episode,) = open_corpus(path).episodes
    made = {}
    for share in (0.05, 0.5, 0.95):
        times = []
        for k in range(30):
            start = int(share * (count - 2000)) + 37 * k
            began = time.perf_counter()
            episode.read(range(start, start + 8))
            times.append(1000 * (time.perf_counter() - began))
        made[f"at_{share:.0%}"] = round(statistics.median(times), 2)
    return {"frames": count, "median_ms": made}


def memory(folder: Path) -> dict[str, float]:
    """Growth of memory that is not of files, from the 2,000th to the 12,000th clip of 4 frames of 32 pixels."""
    noise = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    for number in range(4):
        write_video(folder / f"{number}.mp4", noise.roll(number, 0), 10)
    clips = Mixture({"x": Clips(open_corpus(folder).episodes, 4)})
    order = np.random.default_rng(0).integers(0, len(clips), 12_000).tolist()
    for item in order[:2000]:
        clips[item]
    first = held()
    for item in order[2000:]:
        clips[item]
    return {"before": round(first, 1), "after": round(held(), 1)}


def held() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
