"""Names of models, as the settings give them, to models."""

from services.embedder.models.base import Encoder, Segmenter
from services.embedder.models.toy import ToyEncoder, ToySegmenter
from services.embedder.settings import EmbedderSettings

__all__ = ["load_encoder", "load_encoders", "load_segmenter"]

# torch and the libraries on it take seconds to import; who asks for no such model does not wait for them, and need not
# have them. Hence the imports inside the functions.


def load_encoders(settings: EmbedderSettings) -> list[Encoder]:
    """Load all of `settings.models` in their order, each named as it is there; see `load_encoder`."""
    return [load_encoder(each) for each in settings.each_model()]


def load_encoder(settings: EmbedderSettings) -> Encoder:
    """Load `settings.model`, which names one; ModelError says what is wrong with it.

    Takes seconds or more: not for the event loop.
    """
    if settings.model == "toy":
        return ToyEncoder()
    if settings.model == "demo":
        from services.embedder.models.demo import load_demo_clip  # noqa: PLC0415

        return load_demo_clip(settings)
    if settings.model.startswith("timm:"):
        from services.embedder.models.timm import load_timm  # noqa: PLC0415

        return load_timm(settings)
    from services.embedder.models.clip import load_clip  # noqa: PLC0415

    return load_clip(settings)


def load_segmenter(settings: EmbedderSettings) -> Segmenter | None:
    """Load `settings.segmenter`, None if it is empty; ModelError says what is wrong with it."""
    if not settings.segmenter:
        return None
    if settings.segmenter == "toy":
        return ToySegmenter()
    if settings.segmenter == "demo":
        from services.embedder.models.demo import load_demo_sam  # noqa: PLC0415

        return load_demo_sam(settings)
    from services.embedder.models.sam import load_sam  # noqa: PLC0415

    return load_sam(settings)
