"""Which token sees which where several questions follow one image in a sequence.

Shapes: R sequences, T tokens.
"""

from __future__ import annotations

from torch import Tensor

from prs_med.batch import PREFIX


def shared_prefix_mask(segments: Tensor, position_ids: Tensor, window: int | None) -> Tensor:
    """Each token sees the prefix and the tokens of its own segment, up to itself.

    What a question's tokens see is thus what they would see if the sequence were theirs alone.
    Padding is a segment too: no other sees it, and it sees something, so that its softmax is a
    number.

    Args:
        segments: (R, T) int64, as in :class:`prs_med.batch.Packing`.
        position_ids: (R, T) int64, as there.
        window: how many positions back a token sees, itself included; None: all of them.

    Returns:
        (R, 1, T, T) bool, True where the query (third dimension) sees the key (fourth).
    """
    own = segments[:, :, None] == segments[:, None, :]
    sees = (own | (segments == PREFIX)[:, None, :]).tril()
    if window is not None:
        sees &= position_ids[:, :, None] - position_ids[:, None, :] < window
    return sees[:, None]
