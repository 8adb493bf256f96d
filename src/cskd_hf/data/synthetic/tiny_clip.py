"""A tiny CLIP of synthetic photographs: its word tokenizer, its architecture and its pretraining.

The weights in the package's `assets/tiny_clip` were made by `examples/pretrain_tiny_clip.py` with this module. They
are an ordinary `CLIPModel` checkpoint with a tokenizer that `AutoTokenizer` loads.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

MAX_WORDS = 48
_PAD, _UNKNOWN, _BEGIN, _END = range(4)
_WHOLE_IMAGES_FROM = 0.85
_SPECIAL_WORDS = ("<pad>", "<unk>", "<bos>", "<eos>")


class WordTokenizer:
    """Splits on spaces and commas and looks each word up.

    Args:
        vocabulary: id of each word; the ids 0..3 are padding, unknown word, begin and end.
    """

    def __init__(self, vocabulary: dict[str, int]):
        self.vocabulary = vocabulary

    @classmethod
    def from_captions(cls, captions: list[str]) -> WordTokenizer:
        """Takes every word of `captions`, in alphabetical order."""
        words = sorted({word for caption in captions for word in _split(caption)})
        return cls({word: index for index, word in enumerate([*_SPECIAL_WORDS, *words])})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> WordTokenizer:
        """Reads `vocab.json` in `folder`."""
        return cls(json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8")))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `vocab.json` into `folder`, and the files that transformers' `AutoTokenizer` reads."""
        text = json.dumps(self.vocabulary, indent=0, ensure_ascii=False)
        (Path(folder) / "vocab.json").write_text(text + "\n", encoding="utf-8")
        self._as_stock().save(str(Path(folder) / "tokenizer.json"))
        names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), _SPECIAL_WORDS, strict=True))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_WORDS, **names}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _as_stock(self) -> tokenizers.Tokenizer:
        """The same as a tokenizer of the `tokenizers` library."""
        stock = tokenizers.Tokenizer(tokenizers.models.WordLevel(self.vocabulary, unk_token=_SPECIAL_WORDS[_UNKNOWN]))
        stock.normalizer = tokenizers.normalizers.Sequence(
            [tokenizers.normalizers.Lowercase(), tokenizers.normalizers.Replace(",", " ")]
        )
        stock.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        begin, end = _SPECIAL_WORDS[_BEGIN], _SPECIAL_WORDS[_END]
        stock.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{begin} $A {end}", special_tokens=[(begin, _BEGIN), (end, _END)]
        )
        return stock

    def __call__(self, captions: list[str]) -> Tensor:
        """Encodes captions.

        Returns:
            long tensor of shape (n, longest), padded after the end; the causal text tower needs no mask for that.

        Raises:
            ValueError: if a caption is longer than the text tower can read.
        """
        rows = []
        for caption in captions:
            ids = [self.vocabulary.get(word, _UNKNOWN) for word in _split(caption)]
            if len(ids) + 2 > MAX_WORDS:
                raise ValueError(f"a caption may have at most {MAX_WORDS - 2} words, got {len(ids)}: {caption!r}")
            rows.append(torch.tensor([_BEGIN, *ids, _END]))
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_PAD)


def _split(caption: str) -> list[str]:
    return caption.lower().replace(",", " ").split()


def build_tiny_clip(words: int) -> CLIPModel:
    """A CLIPModel of width 128 with random weights for 64 px images and a vocabulary of `words`."""
    shared = {"hidden_size": 128, "num_attention_heads": 4, "projection_dim": 128, "hidden_act": "gelu"}
    text = {"num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": words}
    tokens = {"max_position_embeddings": MAX_WORDS, "pad_token_id": _PAD, "bos_token_id": _BEGIN, "eos_token_id": _END}
    vision = {"num_hidden_layers": 4, "intermediate_size": 512, "image_size": 64, "patch_size": 8}
    config = CLIPConfig(text_config=shared | text | tokens, vision_config=shared | vision, projection_dim=128)
    return CLIPModel(config)


def to_pixel_values(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalises uint8 images (n, 64, 64, 3) channel by channel into float (n, 3, 64, 64)."""
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class PatchDropout:
    """A forward hook on the patch embeddings that keeps the class token and a random half of the patches.

    Masking makes a step nearly twice as cheap at little loss (FLIP, arXiv 2212.00794).

    Args:
        generator: which patches stay.
    """

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def __call__(self, module: nn.Module, inputs: tuple, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        order = torch.rand(batch, length - 1, generator=self.generator).argsort(1)
        kept = 1 + order[:, : (length - 1) // 2, None].expand(-1, -1, width)
        return torch.cat([tokens[:, :1], tokens.gather(1, kept)], dim=1)


def pretrain(
    model: CLIPModel,
    images: Tensor,
    token_ids: Tensor,
    mean: Tensor,
    std: Tensor,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    batch_size: int = 192,
    learning_rate: float = 1e-3,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Trains image and text towers to find each other's pair among a batch (CLIP, arXiv 2103.00020).

    The budget is wall-clock time or a number of steps; learning rate (cosine) and patch dropping (until the last 15 %)
    follow the share of it that is spent. With `steps`, the weights are a function of the arguments; with `minutes`,
    also of the machine.

    Args:
        model: trained in place.
        images: uint8 (n, 64, 64, 3).
        token_ids: long (n, words), padded with 0.
        mean, std: of the pixels, (3,), on a 0..1 scale.
        minutes: wall-clock budget.
        steps: the budget in steps instead.
        seed: of order, flips and dropped patches.
        batch_size: pairs a step, at most n.
        learning_rate: of AdamW, at the top of the cosine.
        report: receives a line of progress every 200 steps.

    Returns:
        dict of `steps`, `passes` over the images and `loss` (running mean at the end).

    Raises:
        ValueError: unless exactly one of `minutes` and `steps` is given and positive, or if a batch is larger than the album.
    """
    if (minutes is None) == (steps is None) or (minutes or steps or 0) <= 0:
        raise ValueError(f"give either minutes or steps, above 0, got minutes={minutes}, steps={steps}")
    if batch_size > len(images):
        raise ValueError(f"batch_size must be at most the number of images, {len(images)}, got {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    optimizer = _make_optimizer(model)
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # on CPU, the fused attention is several times slower in bfloat16
    dropping = model.vision_model.embeddings.register_forward_hook(PatchDropout(generator))
    order = torch.empty(0, dtype=torch.long)
    step, running = 0, math.nan
    started = time.monotonic()

    def progress() -> float:
        return step / steps if steps is not None else (time.monotonic() - started) / (60 * minutes)

    model.train()
    while (spent := progress()) < 1:
        if spent > _WHOLE_IMAGES_FROM:
            dropping.remove()
        for group in optimizer.param_groups:
            group["lr"] = _rate(learning_rate, spent)
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        rows, order = order[:batch_size], order[batch_size:]
        pixels = to_pixel_values(images[rows], mean, std)
        flipped = torch.rand(batch_size, generator=generator) < 0.5
        pixels[flipped] = pixels[flipped].flip(-1)
        loss = _optimise(model, optimizer, pixels, token_ids[rows])
        running = loss if step == 0 else 0.98 * running + 0.02 * loss
        step += 1
        if step % 200 == 0:
            report(f"step {step}, {100 * spent:.0f} % of the budget, loss {running:.3f}")
    dropping.remove()
    model.set_attn_implementation(attention)
    model.eval()
    return {"steps": step, "passes": step * batch_size / len(images), "loss": running}


def _rate(peak: float, spent: float) -> float:
    """Learning rate at a share of the budget: a short warm-up, then a cosine to a hundredth of the peak."""
    return peak * min(1.0, spent / 0.02 + 0.01) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent)))


def _optimise(model: CLIPModel, optimizer: torch.optim.Optimizer, pixel_values: Tensor, token_ids: Tensor) -> float:
    """One step; returns its loss."""
    loss = contrastive_loss(model, pixel_values, token_ids)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))  # as in CLIP: a sharper softmax is unstable
    return loss.item()


def contrastive_loss(model: CLIPModel, pixel_values: Tensor, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy of finding each image's caption and each caption's image in the batch.

    Args:
        model: its towers run in bfloat16.
        pixel_values: (batch, 3, 64, 64).
        token_ids: (batch, words), padded with 0.

    Returns:
        scalar.
    """
    token_ids = token_ids[:, : int((token_ids != _PAD).sum(1).max())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, text = embed_pixels(model, pixel_values), embed_tokens(model, token_ids)
    logits = model.logit_scale.exp() * image.float() @ text.float().T  # (batch, batch)
    pairs = torch.arange(len(logits))
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def _make_optimizer(model: CLIPModel) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.1 on matrices and none on vectors and scalars; the rate is set at each step."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def embed_pixels(model: CLIPModel, pixel_values: Tensor) -> Tensor:
    """Unit-length image embeddings (n, 128) of pixel values (n, 3, 64, 64)."""
    return F.normalize(model.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)


def embed_tokens(model: CLIPModel, token_ids: Tensor) -> Tensor:
    """Unit-length text embeddings (n, 128) of token ids (n, words)."""
    return F.normalize(model.get_text_features(input_ids=token_ids).pooler_output, dim=-1)


@torch.no_grad()
def embed_images(model: CLIPModel, images: Tensor, mean: Tensor, std: Tensor, batch_size: int = 256) -> Tensor:
    """Unit-length embeddings (n, 128) of uint8 images (n, 64, 64, 3), in batches."""
    parts = [embed_pixels(model, to_pixel_values(part, mean, std)) for part in images.split(batch_size)]
    return torch.cat(parts)


def recall_at(image: Tensor, text: Tensor, ks: tuple[int, ...] = (1, 10)) -> dict[int, float]:
    """Share of images whose own caption is among the k nearest.

    Args:
        image, text: unit-length embeddings (n, dim), row i of one belongs to row i of the other.
        ks: the counts to report.

    Returns:
        recall by k, 0..1.
    """
    similarity = image @ text.T
    rank = (similarity > similarity.diagonal()[:, None]).sum(1)
    return {k: (rank < k).float().mean().item() for k in ks}
