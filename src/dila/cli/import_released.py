"""``dila import-released``."""

from pathlib import Path

from tyro.conf import Positional


def import_released(
    checkpoint: Positional[Path],
    out: Positional[Path],
    stride: float,
    statistics: Path | None = None,
    encoder: str = "facebook/dinov2-with-registers-base",
    size: int = 224,
    decoder: Path | None = None,
) -> None:
    """Convert a released checkpoint, with its encoder, statistics and decoder, to a folder that the other verbs accept.

    Args:
        checkpoint: a released DiLA file, .pt or .safetensors.
        out: folder to write.
        stride: seconds between frames, which the release does not state (RT-1: every second frame at 3 Hz, 0.67).
        statistics: the RAE's stat.pt, with which features are normalised.
        encoder: DINOv2 with registers, as a Hub id or a local folder.
        size: pixels a side that frames are resized to.
        decoder: the RAE's decoder file; without it the model cannot draw.
    """
    from dila.interop.pretrained import load_pretrained, save_pretrained
    from dila.vision import FeatureStatistics, build_decoder, build_encoder

    fitted = FeatureStatistics.load(statistics) if statistics else None
    eyes = build_encoder({"name": "dinov2", "model": encoder, "size": size}, fitted)
    if fitted:
        fitted.check_fit(eyes.grid, eyes.feature_dim, str(statistics))
    hand = build_decoder({"name": "rae", "weights": str(decoder)}, fitted) if decoder else None
    loaded = load_pretrained(checkpoint, encoder=eyes, decoder=hand, stride=stride)
    notes = {"imported_from": checkpoint.name}
    print(f"wrote {save_pretrained(out, loaded, notes)}; try: dila label {out} VIDEOS")
