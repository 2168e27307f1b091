"""The multimodal language model: CLIP tower, projector and Mistral, with LoRA, as one module.

Shapes: B sequences, T tokens, D hidden width, V vocabulary, N supervised tokens of all sequences.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel, LlavaForConditionalGeneration

from prs_med.batch import IMAGE_TOKEN
from prs_med.config import ModelSettings, SettingError
from prs_med.model.llava_layouts import LlavaLayout
from prs_med.model.llava_loading import load_llava
from prs_med.model.llava_tokenizer import load_tokenizer
from prs_med.model.normalise import normalise
from prs_med.model.shared_prefix import shared_prefix_mask

__all__ = [
    "Mllm",
    "add_lora",
    "build_mllm",
    "flops_per_token",
    "load_llava",
    "load_tokenizer",
    "make_trainable",
]


def add_lora(model: LlavaForConditionalGeneration, settings: ModelSettings) -> PeftModel:
    """Wrap the language model's linear layers with LoRA; nothing else is touched.

    Raises:
        SettingError: if a name in ``--lora_targets`` is no layer of the language model.
    """
    targets = [name.strip() for name in settings.lora_targets.split(",") if name.strip()]
    present = {name.rsplit(".", 1)[-1] for name, _ in model.model.language_model.named_modules()}
    for name in targets:
        if name not in present:
            raise SettingError(f"--lora_targets {name}: the language model has no such layer")
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        # Bare names would also wrap the CLIP tower's layers of the same names.
        target_modules=rf".*language_model\..*\.({'|'.join(targets)})",
        modules_to_save=["multi_modal_projector"] if settings.train_projector else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


class Mllm(nn.Module):
    """CLIP tower, projector, Mistral and LM head behind one forward pass.

    Image features are written into the token sequence here rather than by transformers, because
    the original vocabulary has no image token.
    """

    def __init__(self, model: nn.Module, layout: LlavaLayout) -> None:
        super().__init__()
        self.model = model
        self.train()
        self.image_mean = layout.image_mean
        self.image_std = layout.image_std

    def train(self, mode: bool = True) -> Mllm:
        """Switch dropout; 4-bit layers, which have none, stay in training mode.

        In evaluation mode bitsandbytes repacks their weights on CPUs with AVX512-BF16, after which
        they can be neither trained through nor partitioned by ZeRO-3.
        """
        super().train(mode)
        if "bitsandbytes" not in sys.modules:
            return self  # It has no such layers then, and importing it takes seconds.
        from bitsandbytes.nn import Linear4bit

        for module in self.modules():
            if isinstance(module, Linear4bit):
                module.training = True
        return self

    @property
    def llava(self) -> LlavaForConditionalGeneration:
        """The transformers model inside PEFT's wrapper, or the model itself without one."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image: Tensor,
        label_index: Tensor,
        image_index: Tensor | None = None,
        position_ids: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states of all positions and logits of the supervised ones.

        Args:
            input_ids: (B, T) int64, with :data:`IMAGE_TOKEN` where image features go.
            attention_mask: (B, T) bool, False at padding (on the right).
            image: (I, 3, S, S) uint8, square images of the CLIP tower's size; each is encoded once.
            label_index: (N,) int64, positions in the flattened (B·T) sequence to predict from.
            image_index: (B,) int64, the image of each sequence; None where I = B and each sequence
                has its own.
            position_ids: (B, T) int64; None where positions count up from 0.
            segments: (B, T) int64, as in :class:`prs_med.batch.Packing`, with ``position_ids``;
                None where each sequence is one sample.

        Returns:
            (B, T, D) hidden states and (N, V) logits, in the model's precision.
        """
        llava = self.llava
        embeddings = self.embed(input_ids, image, image_index)
        if torch.is_grad_enabled() and self._is_compiled:
            # Compiled code is for inputs with a gradient or for those without one. That of the
            # first layer is not needed, costs next to nothing and spares a second compilation.
            embeddings.requires_grad_()
        window = getattr(llava.config.text_config, "sliding_window", None)  # Llama has none
        if position_ids is not None and segments is not None:
            mask = shared_prefix_mask(segments, position_ids, window)
            hidden = self._masked(embeddings, mask, position_ids)
        elif window is not None and input_ids.shape[1] > window:
            hidden = self._masked(embeddings, attention_mask.long(), None)
        else:
            hidden = self._causal(embeddings)
        supervised = hidden.flatten(0, 1).index_select(0, label_index)
        return hidden, llava.lm_head(supervised)

    def _masked(self, embeddings: Tensor, mask: Tensor, position_ids: Tensor | None) -> Tensor:
        return self.llava.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state

    def _causal(self, embeddings: Tensor) -> Tensor:
        """Last hidden states (B, T, D) where each position sees itself and all before it.

        Padding on the right needs no mask then, so that the fastest attention kernels can be used.
        transformers' own forward pass would look into the mask, or into the positions, whether that
        is so, and the GPU would wait each time.
        """
        model = self.llava.model.language_model
        positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        rotary = model.rotary_emb(embeddings, position_ids=positions)
        hidden = embeddings
        for layer in model.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
        return model.norm(hidden)

    def embed(self, input_ids: Tensor, image: Tensor, image_index: Tensor | None = None) -> Tensor:
        """Token embeddings with image features in their places: (B, T, D)."""
        llava = self.llava
        is_image = input_ids == IMAGE_TOKEN
        embeddings = llava.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        pixels = normalise(image, self.image_mean, self.image_std)
        features = llava.get_image_features(
            pixel_values=pixels.to(embeddings.dtype),
            vision_feature_layer=llava.config.vision_feature_layer,
            vision_feature_select_strategy=llava.config.vision_feature_select_strategy,
        ).pooler_output
        stacked = torch.stack(list(features)).to(embeddings.dtype)
        if image_index is not None:
            stacked = stacked.index_select(0, image_index)
        # Not masked_scatter, whose backward pass waits for the GPU.
        number = (is_image.cumsum(1) - 1).clamp(min=0)[..., None]
        own = stacked.gather(1, number.expand(-1, -1, stacked.shape[-1]))
        return torch.where(is_image[..., None], own, embeddings)

    @property
    def _is_compiled(self) -> bool:
        layers = self.llava.model.language_model.layers
        return any(layer._compiled_call_impl is not None for layer in layers)

    @torch.no_grad()
    def prefill(self, input_ids: Tensor, attention_mask: Tensor, image: Tensor) -> Any:
        """One pass over prompts padded on the left: transformers' output with cache."""
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        return self.llava.model.language_model(
            inputs_embeds=self.embed(input_ids, image),
            attention_mask=attention_mask.long(),
            position_ids=positions,
            use_cache=True,
        )

    @torch.no_grad()
    def decode(self, token: Tensor, attention_mask: Tensor, cache: Any) -> Any:
        """One more token (B, 1) int64 on top of ``cache``; ``attention_mask`` covers all of it."""
        return self.llava.model.language_model(
            inputs_embeds=self.llava.get_input_embeddings()(token),
            attention_mask=attention_mask.long(),
            position_ids=attention_mask.long().sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )

    def use_one_precision(self) -> Mllm:
        """Bring all weights to the precision of the LM head, as DeepSpeed does in training.

        Not ``to(dtype)``: that would also round the rotary frequencies, which stay fp32 there.
        """
        dtype = self.llava.lm_head.weight.dtype
        for parameter in self.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        return self

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.llava.config.text_config.hidden_size)


def flops_per_token(layout: LlavaLayout, settings: ModelSettings) -> float:
    """FLOPs to train on one token: 2·N for the forward pass, 2·N for the gradients of activations
    unless the whole language model is frozen, 2·N for those of its weights if they are trained.

    N counts the weights of the language model's layers. Embeddings, LM head, attention scores,
    CLIP tower and segmentation side are left out, so a utilisation computed from this is a lower
    bound.
    """
    with torch.device("meta"):
        layers = AutoModel.from_config(layout.config.text_config).layers
    weights = sum(parameter.numel() for parameter in layers.parameters())
    if settings.freeze_mllm:
        return 2.0 * weights
    return (4.0 if settings.finetune == "lora" else 6.0) * weights


def build_mllm(layout: LlavaLayout, settings: ModelSettings, on_host: bool = False) -> Mllm:
    """Load the base model and make the parts trainable that the settings name; ``on_host`` as of
    :func:`load_llava`."""
    return make_trainable(load_llava(layout, settings, on_host), layout, settings)


def drop_gradients_of_inputs(llava: LlavaForConditionalGeneration) -> None:
    """Take back that embeddings, and the patches of CLIP, require gradients.

    With gradient checkpointing transformers and PEFT both see to it, for the reentrant kind, which
    has no gradients otherwise. Ours is the other kind, and they would cost a backward pass of what
    nobody trains.
    """
    for model in (llava, llava.model.language_model):
        model.disable_input_require_grads()


def make_trainable(
    llava: LlavaForConditionalGeneration, layout: LlavaLayout, settings: ModelSettings
) -> Mllm:
    """Add LoRA to a frozen model, or unfreeze its weights, as the settings say."""
    if settings.gradient_checkpointing:
        llava.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.finetune == "lora":
        adapted = add_lora(llava, settings)
        drop_gradients_of_inputs(llava)
        return Mllm(adapted, layout)
    drop_gradients_of_inputs(llava)
    llava.model.language_model.requires_grad_(True)
    llava.lm_head.requires_grad_(True)
    llava.model.multi_modal_projector.requires_grad_(settings.train_projector)
    return Mllm(llava, layout)
