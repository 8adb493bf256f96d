"""Captions of synthetic photographs: what is seen and how it was taken, in varied words, never how good it is."""

from __future__ import annotations

import random

from .factors import CASTS, COLORS, LANDS, PLACEMENTS, SUBJECTS, TIMES

_TIME_WORDS = {
    "day": ("by day", "in daylight", "at noon", "under a blue sky"),
    "sunset": ("at sunset", "at sundown", "in evening light", "under an orange sky"),
    "dusk": ("at dusk", "at twilight", "in the blue hour"),
    "night": ("at night", "after dark", "in the dark of night"),
    "overcast": ("on an overcast day", "under a grey sky", "in dull weather"),
}
_LAND_WORDS = {
    "grass": ("on grass", "in a meadow", "in a green field"),
    "desert": ("in the desert", "on sand", "among dunes"),
    "snow": ("in snow", "on a snowy plain", "in winter"),
    "water": ("by a lake", "on the water", "at the sea"),
    "mountain": ("in the mountains", "below mountain peaks", "in an alpine valley"),
    "city": ("in the city", "before a skyline", "among buildings"),
}
_SUBJECT_WORDS = {
    "tree": ("tree",),
    "house": ("house", "cottage", "hut"),
    "animal": ("animal", "dog", "horse"),
    "boat": ("boat", "sailboat"),
    "flower": ("flower", "blossom"),
    "person": ("person", "man", "figure"),
    "bird": ("bird", "gull"),
    "rock": ("rock", "boulder", "stone"),
}
_COLOR_WORDS = {
    "red": ("red", "crimson"),
    "purple": ("purple", "violet"),
    "yellow": ("yellow", "golden"),
    "white": ("white", "pale"),
    "black": ("black", "dark"),
}
_PLACEMENT_WORDS = {
    "thirds": ("off centre", "on the third"),
    "centre": ("in the centre", "in the middle"),
    "edge": ("cut by the frame", "at the edge"),
}
_CAST_WORDS = {
    "warm": ("warm", "yellowish"),
    "cool": ("cool", "bluish"),
    "green": ("greenish", "green tinted"),
}
_NOUNS = ("photo", "picture", "snapshot", "image", "shot")
_KEPT = 0.8  # every remark is left out now and then, as people do
_MOST_REMARKS = 6


def write_caption(factors: dict[str, float], words: random.Random) -> str:
    """Describes one photograph.

    Args:
        factors: one value a name, see `draw_factors`; categories are indices.
        words: chooses synonyms, and which remarks to make in which order.

    Returns:
        a caption in lower case, such as "a grainy photo of a red house by a lake at dusk, tilted horizon".
    """

    def one(options: tuple[str, ...]) -> str:
        return words.choice(options)

    adjectives = [one(options) for options in _look(factors) if words.random() < _KEPT]
    words.shuffle(adjectives)
    if not adjectives:
        adjectives = [one(("plain", "normal"))]
    subject = one(_SUBJECT_WORDS[SUBJECTS[int(factors["subject"])]])
    if factors["saturation"] > 0 and words.random() < _KEPT:
        name = COLORS[int(factors["color"])]
        subject = f"{one(_COLOR_WORDS.get(name, (name,)))} {subject}"
    size = _size_word(factors, words)
    place = one(_LAND_WORDS[LANDS[int(factors["land"])]])
    time = one(_TIME_WORDS[TIMES[int(factors["time"])]])
    where = f"{place} {time}" if words.random() < 0.5 else f"{time} {place}"
    remarks = [one(options) for options in _remarks(factors) if words.random() < _KEPT]
    words.shuffle(remarks)
    head = f"a {' '.join(adjectives)} {one(_NOUNS)} of a {size}{subject} {where}"
    return ", ".join([head, *remarks[:_MOST_REMARKS]])


def _look(factors: dict[str, float]) -> list[tuple[str, ...]]:
    """Words for what the camera did, for the remarkable values only."""
    look: list[tuple[str, ...]] = []
    if factors["exposure"] < -0.5:
        look.append(("underexposed", "low key", "dim"))
    elif factors["exposure"] > 0.5:
        look.append(("overexposed", "bright", "high key"))
    if factors["contrast"] < 0.82:
        look.append(("flat", "low contrast", "faded"))
    elif factors["contrast"] > 1.22:
        look.append(("contrasty", "high contrast"))
    if factors["saturation"] == 0:
        look.append(("black and white", "monochrome", "greyscale"))
    elif factors["saturation"] < 0.7:
        look.append(("muted", "desaturated"))
    elif factors["saturation"] > 1.3:
        look.append(("vivid", "saturated", "colourful"))
    if factors["blur"] > 0.5:
        look.append(("blurry", "defocused", "soft"))
    elif factors["noise"] < 0.02:
        look.append(("sharp", "crisp", "clear"))
    if factors["noise"] > 0.02:
        look.append(("grainy", "noisy"))
    if factors["cast_strength"] > 0.25 and factors["saturation"] > 0:
        look.append(_CAST_WORDS[CASTS[int(factors["cast"])]])
    return look


def _remarks(factors: dict[str, float]) -> list[tuple[str, ...]]:
    """Phrases for what else is in the frame."""
    remarks: list[tuple[str, ...]] = []
    if abs(factors["tilt"]) > 3:
        remarks.append(("tilted horizon", "slanted frame"))
    if factors["vignette"] > 0.3:
        remarks.append(("dark corners", "vignette"))
    if factors["bokeh"] > 0:
        remarks.append(("soft background", "shallow focus"))
    if factors["clutter"] > 0:
        remarks.append(("clutter around", "some poles and boxes") if factors["clutter"] < 4 else ("much clutter",))
    if factors["sun"] > 0:
        night = TIMES[int(factors["time"])] == "night"
        remarks.append(("with the moon", "moonlight") if night else ("with the sun", "sun in the sky"))
    if factors["stars"] > 0:
        remarks.append(("with stars", "starry sky"))
    if factors["clouds"] > 0.45:
        remarks.append(("cloudy", "with clouds"))
    elif factors["clouds"] == 0:
        remarks.append(("cloudless", "empty sky"))
    if factors["reflection"] > 0.5:
        remarks.append(("calm with reflection", "mirrored"))
    elif LANDS[int(factors["land"])] == "water":
        remarks.append(("waves", "ripples"))
    placement = PLACEMENTS[int(factors["placement"])]
    if placement in _PLACEMENT_WORDS:
        remarks.append(_PLACEMENT_WORDS[placement])
    return remarks


def _size_word(factors: dict[str, float], words: random.Random) -> str:
    if words.random() > _KEPT:
        return ""
    if factors["size"] < 0.24:
        return words.choice(("small ", "distant "))
    if factors["size"] > 0.48:
        return words.choice(("large ", "big ", "near "))
    return ""
