"""Names of LLaVA's tensors in all published layouts, and what the running model calls them.

::

    original LLaVA                          model.layers. model.mm_projector.0.
                                            model.vision_tower.vision_tower.vision_model.
    transformers 4 (LLaVA-HF)               language_model.model.layers. multi_modal_projector.
                                            vision_tower.vision_model.
    transformers 5, new model               the same without vision_model.
    transformers 5, save_original_format    model.language_model.layers. model.vision_tower.
    switched off, and the running model     model.multi_modal_projector. lm_head.

No name means different things in two of them, so one table reads them all, mixtures too.
"""

from __future__ import annotations

import re

VISION = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
LANGUAGE = "model.language_model."

_PREFIXES = (
    (r"model\.vision_tower\.vision_tower\.(vision_model\.)?", VISION),
    (r"(model\.)?vision_tower\.(vision_model\.)?", VISION),
    (r"model\.mm_projector\.0\.", f"{PROJECTOR}linear_1."),
    (r"model\.mm_projector\.2\.", f"{PROJECTOR}linear_2."),
    (r"(model\.)?multi_modal_projector\.", PROJECTOR),
    (r"(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"(model\.)?language_model\.(model\.)?", LANGUAGE),
    (r"model\.(?=(embed_tokens|layers|norm)\.)", LANGUAGE),
)

_COMPUTED = re.compile(
    # Buffers that old versions of transformers stored; now they are computed anew.
    rf"{re.escape(VISION)}embeddings\.position_ids"
    rf"|{re.escape(LANGUAGE)}layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)

_CLIP_OTHERS = re.compile(r"text_model\..+|logit_scale|(text|visual)_projection\.weight")
"""What a whole CLIP model holds besides its vision tower."""


def running_name(stored: str) -> str | None:
    """What the running model calls the tensor ``stored``; None if it computes it itself.

    A name of no known layout stays as it is.
    """
    for pattern, prefix in _PREFIXES:
        match = re.match(pattern, stored)
        if match:
            stored = prefix + stored[match.end() :]
            break
    return None if _COMPUTED.fullmatch(stored) else stored


def clip_running_name(stored: str) -> str | None:
    """The same for a tensor of a CLIP model or of its vision tower alone."""
    if _CLIP_OTHERS.fullmatch(stored):
        return None
    return running_name(VISION + stored.removeprefix("vision_model."))
