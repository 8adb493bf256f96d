"""The layout of the app and its events. Needs gradio, the extra `app`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware

from ...files import public_name
from ...models.image_loading_cskd import ImageLoadError
from ...scoring.folder import load_pipeline
from ...scoring.saliency import saliency_map, saliency_overlay, seen_picture
from . import page
from .gate import Gate
from .scoring import Scored, csv_table, open_picture, score_pictures
from .uploads import Limits, Refusal, find_pictures

if TYPE_CHECKING:
    from ...models.pipeline_cskd import ImageAestheticsPipeline

TITLE = "Image aesthetics"
HOURS_KEPT = 2
_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]  # gradio's own would be fetched from another server


class ScoringApp:
    """The app of one model: a page of gradio and the functions behind it.

    Args:
        rate: pipeline of the model.
        model_name: that the page shows.
        examples: pictures that a visitor can try.
        limits: of one upload.
    """

    def __init__(
        self,
        rate: ImageAestheticsPipeline,
        model_name: str,
        examples: Sequence[Path] = (),
        limits: Limits | None = None,
    ) -> None:
        self.rate = rate
        self.limits = limits or Limits()
        self._examples = list(examples)
        self._uploads = Path(get_upload_folder()).resolve()
        self.blocks = self._layout(model_name)

    def launch(self, host: str | None, port: int | None, **more: Any) -> tuple[Any, str, str]:
        """Serve the page; blocks until it is stopped, as gradio does, unless `prevent_thread_lock` is among `more`."""
        return self.blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=self.limits.upload_bytes,
            app_kwargs={"middleware": [Middleware(Gate, uploads=self._uploads)]},
            allowed_paths=[],
            state_session_capacity=500,
            theme=gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"]),
            css=page.style(),
            footer_links=[],
            share=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            **more,
        )

    def _layout(self, model_name: str) -> gr.Blocks:
        config = self.rate.model.config
        scale = config.score_values[0], config.score_values[-1]
        seconds_kept = HOURS_KEPT * 3600
        with gr.Blocks(
            title=TITLE, analytics_enabled=False, delete_cache=(seconds_kept // 2, seconds_kept // 2)
        ) as blocks:
            gr.HTML(page.heading(TITLE, model_name, scale, self.limits, HOURS_KEPT))
            ranked = gr.State([], time_to_live=seconds_kept)
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    uploaded = gr.File(
                        label="Photographs, or a zip of them",
                        file_count="multiple",
                        file_types=["image", ".zip"],
                        height=220,
                        elem_id="uploaded",
                    )
                    examples = gr.Button("Try the examples", visible=bool(self._examples), elem_id="examples")
                    notes = gr.HTML(page.notes([], []), elem_id="notes")
                    download = gr.DownloadButton("Download the scores as CSV", interactive=False, elem_id="download")
                with gr.Column(scale=2, min_width=320):
                    gallery = gr.Gallery(
                        label="Ranking: choose a picture to see what its score is made of",
                        show_label=False,
                        height="auto",
                        object_fit="contain",
                        allow_preview=False,
                        buttons=[],
                        interactive=False,
                        elem_id="ranking",
                    )
            detail = gr.HTML("", elem_id="detail")
            table = gr.HTML("", elem_id="table")
            outputs = [ranked, notes, gallery, detail, table, download]
            # One at a time through the model; not for programs, which load the model themselves.
            shared: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
            uploaded.change(
                self._score_uploads, uploaded, outputs, preprocess=False, show_progress_on=[gallery], **shared
            )
            examples.click(self._score_examples, None, outputs, show_progress_on=[gallery], **shared)
            gallery.select(self._explain, ranked, detail, **shared)
        return blocks.queue(max_size=20)

    # gradio shows the progress of a function with such a default.
    def _score_uploads(
        self,
        uploaded: list[dict[str, Any]] | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        uploads = []
        for file in uploaded or []:
            path = Path(file["path"]).resolve()
            if self._uploads not in path.parents:
                raise gr.Error("Only uploaded files are read.")
            uploads.append((file.get("orig_name") or path.name, path))
        return self._score(uploads, progress)

    def _score_examples(self, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        return self._score([(path.name, path) for path in self._examples], progress)

    def _score(self, uploads: list[tuple[str, Path]], progress: gr.Progress) -> list[Any]:
        pictures, refusals = find_pictures(uploads, self.limits)
        scored, unreadable = score_pictures(
            self.rate,
            pictures,
            self.limits,
            lambda done, total: progress((done, total), desc="Scoring", unit="images"),
        )
        refusals = [*unreadable, *refusals]
        gallery = [(one.thumbnail, f"{one.result['score']:.2f}  {one.picture.name}") for one in scored]
        download = self._download(scored, refusals)
        kept = [replace(one, thumbnail=None) for one in scored]
        return [kept, page.notes(scored, refusals), gallery, "", page.table(scored), download]

    def _download(self, scored: list[Scored], refusals: list[Refusal]) -> Any:
        if not scored and not refusals:
            return gr.DownloadButton(value=None, interactive=False)
        folder = Path(tempfile.mkdtemp(dir=self._uploads))
        file = folder / "scores.csv"
        file.write_text(csv_table(scored, refusals), encoding="utf-8", errors="replace")
        return gr.DownloadButton(value=str(file), interactive=True)

    def _explain(self, ranked: list[Scored], event: gr.SelectData) -> str:
        if not isinstance(event.index, int) or not 0 <= event.index < len(ranked):
            return page.problem("This page has been idle for too long; upload the pictures again.")
        one = ranked[event.index]
        try:
            image = open_picture(one.picture, self.limits)
        except ImageLoadError as error:
            return page.problem(f"{one.picture.name}: {error.reason}")
        pixels = self.rate.preprocess(image)["pixel_values"]  # (1, 3, height, width)
        processor = self.rate.image_processor
        seen = seen_picture(pixels[0], processor.image_mean, processor.image_std)
        overlay = saliency_overlay(seen, saliency_map(self.rate.model, pixels)[0])
        return page.detail(event.index + 1, one, self.rate.model.config.attributes or {}, seen, overlay)


def run_app(
    model: str, *, host: str | None = None, port: int | None = None, examples: str | Path | None = None, **more: Any
) -> None:
    """Load a model and serve its app until it is stopped.

    Args:
        model: checkpoint: Hub name or folder.
        host, port: to listen on; by default those of the environment, as on a Space, or 127.0.0.1 and a free port.
        examples: folder of pictures to try.
        more: passed to gradio's `launch`.

    Raises:
        ScoringError: the checkpoint cannot score images.
    """
    pictures = sorted(Path(examples).iterdir()) if examples else []
    app = ScoringApp(load_pipeline(str(model)), public_name(model), pictures)
    app.launch(host, port, **more)
