"""What transformers' Trainer, PEFT and LLaVA call settings, and what they are here.

They are not taken over in silence, since units and defaults differ: whoever types one is told.
"""

from __future__ import annotations

_DROP = "drop it: "
_SCHEDULE = (
    "the learning rate rises linearly and falls as a cosine; --warmup_ratio and --min_lr_ratio "
    "shape it"
)
_OPTIMIZER = _DROP + "the optimizer is AdamW with betas 0.9 and 0.999 and epsilon 1e-8"
_MONITORS = (
    "numbers go to SAVE_DIR/metrics.jsonl; TensorBoard, Weights & Biases and Comet are switched on "
    "in the file of --deepspeed"
)
_VALIDATION = _DROP + "validation comes after each epoch and at the end"
_SCORES = _DROP + "scores are summed batch by batch"
_HUB = _DROP + "nothing is uploaded; SAVE_DIR/final holds the trained weights"
_SHARDING = "the file of --deepspeed says how processes share the work; ZeRO-3 shards as FSDP does"
_ORDER = _DROP + "the order of samples follows from --seed alone, and goes on where it was"
_LOADING = _DROP + "--num_workers is what can be chosen of loading"
_PROGRAMS = _DROP + "launch/train.py trains, launch/eval.py evaluates, launch/infer.py predicts"
_MESSAGES = "PRS_MED_VERBOSE=1 in the environment shows what libraries say"
_RECOMPUTING = ("gradient_checkpointing", "encoder_checkpointing")
_SAVING = ("save_every_steps", "save_every_minutes", "save_every_epochs")

TRAINER: dict[str, tuple[tuple[str, ...], str]] = {
    # Where results go, and what a run is called.
    "output_dir": (("save_dir",), ""),
    "overwrite_output_dir": (("resume",), "a run that is there goes on, or gets another SAVE_DIR"),
    "run_name": (("save_dir",), "a run is named by its folder"),
    "project": (("save_dir",), "a run is named by its folder"),
    "resume_from_checkpoint": (("resume",), "auto takes the newest checkpoint if there is one"),
    "report_to": ((), _MONITORS),
    "logging_dir": ((), _MONITORS),
    "trackio_space_id": ((), _MONITORS),
    "trackio_bucket_id": ((), _MONITORS),
    "trackio_static_space_id": ((), _MONITORS),
    "push_to_hub": ((), _HUB),
    "hub_token": ((), _HUB),
    "hub_private_repo": ((), _HUB),
    "hub_model_id": ((), _HUB),
    "hub_strategy": ((), _HUB),
    "hub_always_push": ((), _HUB),
    "hub_revision": ((), _HUB),
    # How long, and how much at a time.
    "num_train_epochs": (("epochs",), ""),
    "per_device_train_batch_size": (("batch_size",), ""),
    "per_gpu_train_batch_size": (("batch_size",), ""),
    "train_batch_size": (("global_batch_size", "batch_size"), "of all processes, or of one"),
    "per_device_eval_batch_size": (("batch_size",), "in validation as in training"),
    "auto_find_batch_size": ((), "launch/plan.py says which --batch_size fits"),
    # Optimizer and learning rate.
    "lr_scheduler_type": ((), _SCHEDULE),
    "lr_scheduler_kwargs": ((), _SCHEDULE),
    "warmup_steps": (("warmup_ratio",), "a share of all steps, not a number of them"),
    "optim": ((), _OPTIMIZER),
    "optim_args": ((), _OPTIMIZER),
    "optim_target_modules": ((), _OPTIMIZER),
    "adam_beta1": ((), _OPTIMIZER),
    "adam_beta2": ((), _OPTIMIZER),
    "adam_epsilon": ((), _OPTIMIZER),
    "mm_projector_lr": (("learning_rate",), "the projector has no rate of its own"),
    "average_tokens_across_devices": (
        (),
        _DROP + "every term of the loss is a mean over the samples of the global batch",
    ),
    "label_smoothing_factor": ((), _DROP + "the text loss is the plain cross entropy"),
    "neftune_noise_alpha": ((), _DROP + "no noise is added to embeddings"),
    "logging_nan_inf_filter": (("on_bad_step",), "what happens at a loss that is not finite"),
    # Arithmetic and memory.
    "bf16": (("precision",), "--precision bf16 is the default"),
    "fp16": (("precision",), "bf16 or fp32"),
    "bf16_full_eval": (("precision",), "in validation as in training"),
    "fp16_full_eval": (("precision",), "in validation as in training"),
    "torch_dtype": (("precision",), "bf16 or fp32"),
    "dtype": (("precision",), "bf16 or fp32"),
    "tf32": (("segmentation_precision",), "--segmentation_precision tf32"),
    "activation_checkpointing": (_RECOMPUTING, ""),
    "activation_checkpointing_kwargs": (_RECOMPUTING, "true or false"),
    "gradient_checkpointing_kwargs": (_RECOMPUTING, "true or false"),
    "torch_compile": (("compile_model",), "and --compile_regions says which parts"),
    "torch_compile_backend": (("compile_model",), "the backend is PyTorch's default"),
    "torch_compile_mode": (("compile_model",), "the mode is PyTorch's default"),
    "liger_kernel_config": (("use_liger_kernel",), "true or false"),
    "use_liger": (("use_liger_kernel",), ""),
    "use_cache": ((), _DROP + "keys and values are kept where answers are written, and only there"),
    "torch_empty_cache_steps": ((), _DROP + "PyTorch's cache is left to itself"),
    "attn_implementation": (("attention",), "flash is flash_attention_2"),
    "use_cpu": ((), "CUDA_VISIBLE_DEVICES= (empty) in the environment trains on the CPU"),
    "no_cuda": ((), "CUDA_VISIBLE_DEVICES= (empty) in the environment trains on the CPU"),
    # The model.
    "model_name_or_path": (("vlm_path", "checkpoint"), ""),
    "mm_vision_tower": (("vision_tower",), ""),
    "load_in_4bit": (("load_4bit",), ""),
    "load_in_8bit": (("load_8bit",), ""),
    "bits": (("load_4bit", "load_8bit"), "true or false"),
    "lora_enable": (("finetune",), "--finetune lora is the default"),
    "use_peft": (("finetune",), "--finetune lora is the default"),
    "lora_r": (("lora_rank",), ""),
    "lora_target_modules": (("lora_targets",), "comma-separated"),
    "target_modules": (("lora_targets",), "comma-separated"),
    "lora_bias": ((), _DROP + "LoRA trains no biases"),
    "freeze_backbone": (("freeze_mllm",), ""),
    "tune_mm_mlp_adapter": (("train_projector",), ""),
    "model_max_length": (("max_length",), "in tokens, the image's included"),
    "max_seq_length": (("max_length",), "in tokens, the image's included"),
    "trust_remote_code": ((), _DROP + "no code from a hub is run"),
    # What is said, and when.
    "logging_strategy": (("log_every",), "in steps"),
    "logging_steps": (("log_every",), "in steps"),
    "logging_first_step": (("log_every",), "in steps"),
    "log_on_each_node": ((), _DROP + "the first process speaks for all"),
    "log_level": ((), _MESSAGES),
    "log_level_replica": ((), _MESSAGES),
    "disable_tqdm": ((), _DROP + "append '2>FILE' to keep the progress bar off the screen"),
    "include_num_input_tokens_seen": ((), _DROP + "SAVE_DIR/metrics.jsonl has tokens_per_s"),
    "debug": ((), _DROP + "a bad step and a hanging process are named anyway"),
    "skip_memory_metrics": ((), _DROP + "SAVE_DIR/metrics.jsonl has memory_gb"),
    # Validation.
    "eval_strategy": ((), _VALIDATION),
    "evaluation_strategy": ((), _VALIDATION),
    "eval_steps": ((), _VALIDATION),
    "eval_delay": ((), _VALIDATION),
    "eval_on_start": ((), _VALIDATION),
    "prediction_loss_only": (("validation_answers",), "0 writes no answers in validation"),
    "eval_accumulation_steps": ((), _SCORES),
    "eval_do_concat_batches": ((), _SCORES),
    "eval_use_gather_object": ((), _SCORES),
    "include_for_metrics": ((), _SCORES),
    "batch_eval_metrics": ((), _SCORES),
    "load_best_model_at_end": ((), _DROP + "SAVE_DIR/best holds the best weights anyway"),
    "metric_for_best_model": (("best_metric",), ""),
    "greater_is_better": (("best_metric",), "which knows whether higher is better"),
    # Checkpoints.
    "save_strategy": (_SAVING, ""),
    "save_steps": (("save_every_steps",), ""),
    "save_total_limit": (("keep_last",), "besides the best one"),
    "save_only_model": ((), _DROP + "SAVE_DIR/final and SAVE_DIR/best hold the weights alone"),
    "save_on_each_node": ((), _DROP + "all processes write their part to the same SAVE_DIR"),
    "enable_jit_checkpoint": ((), _DROP + "a run saves anyway when it is asked to end (SIGTERM)"),
    "restore_callback_states_from_checkpoint": ((), _DROP + "--resume restores everything"),
    # Data and its order.
    "data_seed": (("seed",), ""),
    "full_determinism": ((), _DROP + "the same command gives the same result anyway"),
    "ignore_data_skip": ((), _ORDER),
    "train_sampling_strategy": ((), _ORDER),
    "group_by_length": ((), _ORDER),
    "length_column_name": ((), _ORDER),
    "dataloader_drop_last": ((), _ORDER),
    "dataloader_in_order": ((), _ORDER),
    "dataloader_num_workers": (("num_workers",), ""),
    "dataloader_prefetch_factor": (("stream_memory_mb",), "in MiB, with --data"),
    "dataloader_pin_memory": ((), _LOADING),
    "dataloader_persistent_workers": ((), _LOADING),
    "dataloader_multiprocessing_context": ((), _LOADING),
    "remove_unused_columns": ((), _DROP + "a table may have columns that nothing reads"),
    "label_names": ((), _DROP + "the columns are found by their names (docs/data.md)"),
    # Processes and programs.
    "accelerator_config": ((), _SHARDING),
    "parallelism_config": ((), _SHARDING),
    "fsdp": ((), _SHARDING),
    "fsdp_config": ((), _SHARDING),
    "ddp_find_unused_parameters": ((), _SHARDING),
    "ddp_bucket_cap_mb": ((), _SHARDING),
    "ddp_broadcast_buffers": ((), _SHARDING),
    "ddp_static_graph": ((), _SHARDING),
    "ddp_backend": ((), _DROP + "it is NCCL on GPUs and Gloo without"),
    "ddp_timeout": (("hang_timeout",), "in seconds, for one point of a step"),
    "do_train": ((), _PROGRAMS),
    "do_eval": ((), _PROGRAMS),
    "do_predict": ((), _PROGRAMS),
}
"""Foreign name to the settings that it is here, and what differs, or what to do instead."""
