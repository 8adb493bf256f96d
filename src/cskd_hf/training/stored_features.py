"""Phase 1's stored reference features: whether a run uses them, and their making."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from ..data.collection import ImageCollection
from ..data.teacher_features import FeatureStore, stored_views
from ..data.views import ViewSettings
from .arguments import AlignSettings, FeatureSettings
from .guarding import alignment_images
from .loop import make_accelerator
from .recipes import read_recipe
from .reference import ReferenceEncoder, references_for
from .settings import SettingsError

logger = logging.getLogger(__name__)

LIVE = "live"
_NEW_VIEWS = 2  # of a store whose number of views nobody chose


def resolve_features(settings: AlignSettings) -> AlignSettings:
    """Settings whose `features` is a folder or 'live', where it was left empty.

    A resumed run keeps what it had: a store that has been built since would change its views.

    Raises:
        SettingsError: mixtures of images, whose features no store can hold, are to be read from one.
    """
    resolved = _with_features(settings)
    if resolved.mixup and resolved.features != LIVE:
        raise SettingsError(
            f"mixup={settings.mixup} shows the reference pictures that are new in every step, but features of "
            f"'{resolved.features}' are stored; give --features live, or --mixup 0."
        )
    return resolved


def _with_features(settings: AlignSettings) -> AlignSettings:
    if settings.features:
        return settings
    output = Path(settings.output_dir)
    recorded, folder = output / "settings.yaml", output / "features"
    chosen = str(folder) if any(stored_views(place) for place in folder.glob("*")) else LIVE
    if settings.resume and recorded.is_file():
        chosen = read_recipe(recorded, type(settings)).get("features") or chosen
    if int(os.environ.get("RANK", 0)) == 0:
        logger.info(
            "reference features: %s",
            f"the reference runs in every step (no store in '{folder}')"
            if chosen == LIVE
            else f"read from the store in '{chosen}'",
        )
    return replace(settings, features=chosen)


@dataclass
class StoredReferences:
    """Where the features of a run's references are stored, and of which views.

    Args:
        settings: of the run, with `features` a folder.
        references: whose features are stored.
    """

    settings: AlignSettings
    references: Sequence[ReferenceEncoder]

    @property
    def views(self) -> ViewSettings:
        """Boxes of views are shares of the image, so a student of another size sees the same cut."""
        side = max(side for reference in self.references for side in reference.preprocessing.size)
        return ViewSettings(size=side, scale=tuple(self.settings.crop_scale), flip=self.settings.flip)

    @property
    def n_views(self) -> int:
        """The settings' number of views, else that of the stores there are."""
        found = [stored_views(self._folder(reference)) for reference in self.references]
        return self.settings.n_views or next((number for number in found if number), _NEW_VIEWS)

    def _folder(self, reference: ReferenceEncoder) -> Path:
        return Path(self.settings.features) / reference.name

    def open(self, images: ImageCollection, accelerator: Accelerator) -> dict[str, FeatureStore]:
        """The stores by reference; what is missing is computed by all processes together."""
        n_views = self.n_views
        return {
            reference.name: FeatureStore.open_or_build(
                self._folder(reference),
                reference.to(accelerator.device),
                images,
                views=self.views,
                n_views=n_views,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
                num_workers=self.settings.num_workers,
                quiet=self.settings.quiet,
            )
            for reference in self.references
        }


def store_features(
    settings: FeatureSettings, references: Sequence[ReferenceEncoder] | None = None
) -> dict[str, FeatureStore]:
    """Compute the stores of phase 1's training images and nothing else (`cskd-hf features`).

    Args:
        settings: as for phase 1.
        references: encoders of one's own, used in place of loading those that `settings.reference` names.

    Raises:
        SettingsError, FileNotFoundError, FeatureStoreError: the settings, the images or a store do not fit.
    """
    settings.check()
    accelerator = make_accelerator(settings)
    stored = StoredReferences(settings, references_for(settings, references))
    images, _, _ = alignment_images(settings, stored.views.source_side, accelerator)
    stores = stored.open(images, accelerator)
    accelerator.wait_for_everyone()
    return stores
