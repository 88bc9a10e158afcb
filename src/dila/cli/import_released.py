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
    """Make a released checkpoint a folder that every other verb takes: with its encoder, statistics and decoder.

    Args:
        checkpoint: a released DiLA file, .pt or .safetensors.
        out: folder to write.
        stride: seconds between frames; the release does not say (RT-1: 2 frames of 3 a second, 0.67).
        statistics: the RAE's stat.pt, by which features are normalised.
        encoder: DINOv2 with registers, a Hub id or a local folder.
        size: pixels a side that frames are brought to.
        decoder: the RAE's decoder file, to draw with; nothing can be drawn when left out.
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
