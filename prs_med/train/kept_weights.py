"""Which weights a run leaves behind: the best by validation, and the last."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prs_med.config import Settings
from prs_med.model.mllm import Mllm
from prs_med.model.trained_weights import save_trained
from prs_med.train.distributed import barrier
from prs_med.train.engines import Engines
from prs_med.train.gather import adapter_weights, all_weights, unpartitioned_state


class KeptWeights:
    """Writes ``best/`` and ``final/`` in the run folder. Every rank must make the same calls:
    partitioned weights are gathered from all of them; rank 0 writes."""

    def __init__(
        self,
        save_dir: Path,
        engines: Engines,
        mllm: Mllm,
        tokenizer: PreTrainedTokenizerBase,
        modalities: tuple[str, ...],
        settings: Settings,
        writes: bool,
    ) -> None:
        self._save_dir = save_dir
        self._engines = engines
        self._mllm = mllm
        self._tokenizer = tokenizer
        self._modalities = modalities
        self._settings = settings
        self._writes = writes
        self._best_dice = float("-inf")

    def offer(self, step: int, scores: dict[str, float]) -> None:
        """Keep the weights as ``best`` if no earlier ones had a higher validation Dice."""
        if scores["val_dice"] > self._best_dice:
            self._best_dice = scores["val_dice"]
            self._save("best", {"step": step, **scores})

    def finish(self, scores: dict[str, float]) -> Path:
        """Keep the weights as ``final``; returns where."""
        self._save("final", scores)
        return self._save_dir / "final"

    def _save(self, name: str, results: dict[str, float]) -> None:
        gather = adapter_weights if self._settings.finetune == "lora" else all_weights
        mllm_weights = gather(self._engines.mllm, self._writes)
        segmentation_state = unpartitioned_state(self._engines.segmentation, self._writes)
        if self._writes:
            save_trained(
                self._save_dir / name,
                self._mllm,
                mllm_weights,
                segmentation_state,
                self._tokenizer,
                self._settings,
                self._modalities,
                results,
            )
        barrier()
