"""`cskd-hf prompts`: attributes by pairs of prompts, for a checkpoint that was aligned with a CLIP."""

from __future__ import annotations

import argparse

from .bank import build_prompt_bank, remove_prompt_bank
from .pairs import PromptError


def prompts_command(namespace: argparse.Namespace) -> int:
    """Run `cskd-hf prompts`; returns the exit code 0.

    Raises:
        PromptError: the checkpoint, the text encoder or the prompts cannot be used.
    """
    if namespace.remove and (namespace.text_encoder or namespace.fit_images):
        raise PromptError(
            "--remove takes the prompts away; give it alone, or --text-encoder to put others in their place."
        )
    if namespace.remove:
        remove_prompt_bank(namespace.checkpoint)
        print(f"{namespace.checkpoint}: has no prompts any more")
        return 0
    if not namespace.text_encoder:
        raise PromptError("there is no text encoder; give --text-encoder, or --remove to take the prompts away.")
    bank = build_prompt_bank(
        namespace.checkpoint,
        namespace.text_encoder,
        namespace.prompts,
        reference=namespace.reference,
        logit_scale=namespace.logit_scale,
        fit_images=namespace.fit_images,
        max_images=namespace.max_images,
    )
    print(f"{namespace.checkpoint}: prompts of {bank['text_encoder']}, in the space of {bank['reference']}")
    width = max(len(pair["name"]) for pair in bank["attributes"])
    for pair in bank["attributes"]:
        print(f"  {pair['name']:{width}}  {', '.join(pair['first'])} / {', '.join(pair['second'])}")
    if namespace.fit_images:
        facts = bank["projector"]
        print(
            f"projector fitted on {facts['images']} images; mean cosine with the reference on {facts['held_out']} left out: "
            f"{facts['cosine_before']:.3f} before, {facts['cosine']:.3f} now"
        )
    return 0
