"""The same training, however it is split over processes, ZeRO stages and micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from prs_med.data.collate import Collator
from prs_med.data.rows import modality_vocabulary, read_records
from prs_med.data.samples import Preparation, SampleDataset, TrainingSamples
from prs_med.data.split import split_records
from prs_med.inputs import image_sizes, prompt_encoder
from prs_med.model.initial_weights import initial_mllm, initial_segmentation
from prs_med.model.llava_layouts import read_layout
from prs_med.model.mllm import load_tokenizer
from prs_med.model.objective import loss_terms
from prs_med.model.prs_med import forward
from prs_med.settings_io import parse_training_settings
from prs_med.train.schedule import learning_rate_factor
from tests.distributed.launcher import Job, run_jobs
from tests.run_folder import metrics, weights
from tests.short_training import WITHOUT_DROPOUT, short

pytestmark = pytest.mark.distributed

STEPS = 3
GLOBAL_BATCH = 4
EMA_DECAY = 0.2
WITHOUT_GRADIENT = ("conv1.bias", "conv2.bias", "in_proj_bias", "qkv.bias", "k_proj.bias")
"""A normalisation or a softmax behind them takes away what (a part of) these biases add: their true
gradient is zero, what is computed is rounding, and Adam makes full steps of it."""
VARIANTS = {
    "1proc_4x1": 4,
    "1proc_2x2": 2,
    "1proc_1x4": 1,
    "1proc_zero3": 4,
    "2proc_zero2": 2,
    "2proc_zero2_1x2": 1,
    "2proc_zero3": 2,
    "2proc_zero3_1x2": 1,
}
"""And how many images their micro-batches have.

Each is compared with plain PyTorch that takes as many at once. In a batch of another size, and with
another number of threads, a CPU's convolutions round otherwise: features differ by 2e-6 of their
size. Recording what each ReLU of the decoder is given showed that on one CPU, in the first step,
one of 16,384 values was 1e-7 or -4e-8 by that; gradients behind it then differ by 1e-3. Which value
is at an edge, and in which step, is another on each CPU."""


def arguments(small, stage: int, batch_size: int, accumulation: int, *more: str) -> list[str]:
    sizes = ["--batch_size", str(batch_size), "--gradient_accumulation_steps", str(accumulation)]
    return short(
        *(small.arguments(), "--precision", "fp32", *sizes, "--max_steps", str(STEPS)),
        *(*WITHOUT_DROPOUT, "--learning_rate", "1e-3", "--max_grad_norm", "0.5"),
        *("--train_projector", *more),
        config=stage,
    )


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant, trained once; a folder each."""
    root = tmp_path_factory.mktemp("equality")
    one = [
        Job(root / "1proc_4x1", arguments(small, 2, 4, 1), keep_gradients=True),
        Job(root / "1proc_2x2", arguments(small, 2, 2, 2), keep_gradients=True),
        Job(root / "1proc_1x4", arguments(small, 2, 1, 4), keep_gradients=True),
        Job(root / "1proc_zero3", arguments(small, 3, 4, 1), keep_gradients=True),
        Job(root / "other_seed", arguments(small, 2, 4, 1, "--seed", "1")),
        Job(root / "1proc_average", arguments(small, 2, 4, 1, "--ema_decay", str(EMA_DECAY))),
    ]
    two = [
        Job(root / "2proc_zero2", arguments(small, 2, 2, 1), keep_gradients=True),
        Job(root / "2proc_zero2_again", arguments(small, 2, 2, 1)),
        Job(root / "2proc_zero2_1x2", arguments(small, 2, 1, 2), keep_gradients=True),
        Job(root / "2proc_global_batch", [*arguments(small, 2, 1, 1), "--global_batch_size", "4"]),
        Job(root / "2proc_zero3", arguments(small, 3, 2, 1), keep_gradients=True),
        Job(root / "2proc_zero3_1x2", arguments(small, 3, 1, 2), keep_gradients=True),
        Job(root / "2proc_average", arguments(small, 3, 2, 1, "--ema_decay", str(EMA_DECAY))),
    ]
    run_jobs(one, 1, root)
    run_jobs(two, 2, root)
    return root


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_equal_whatever_the_micro_batch(runs: Path, variant: str) -> None:
    assert weights(runs / variant).keys() == weights(runs / "1proc_4x1").keys()
    for name in ("loss", "val_loss_seg", "val_loss_txt"):
        expected = metrics(runs / "1proc_4x1", name)
        assert metrics(runs / variant, name) == pytest.approx(expected, rel=2e-3), name
    # Dice counts pixels, of which some lie at the threshold: the weights must be the same.
    in_one_process = next(run for run, size in VARIANTS.items() if size == VARIANTS[variant])
    expected = metrics(runs / in_one_process, "val_dice")
    assert metrics(runs / variant, "val_dice") == pytest.approx(expected, rel=2e-3)


@dataclass(frozen=True)
class Reference:
    """The same training in plain PyTorch: one process, no engine."""

    first_gradients: dict[str, torch.Tensor]
    norms: list[float]
    losses: list[float]
    weights: dict[str, torch.Tensor]
    averages: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def references(small) -> dict[int, Reference]:
    """By the number of images in a micro-batch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each process of a run
    try:
        return {size: train_plainly(small, size) for size in set(VARIANTS.values())}
    finally:
        torch.set_num_threads(threads)


def train_plainly(small, micro_batch: int) -> Reference:
    settings = parse_training_settings(arguments(small, 2, GLOBAL_BATCH, 1), "")
    layout = read_layout(settings.vlm_path)
    splits = split_records(read_records(settings).records, settings.val_fraction, settings.seed)
    modalities = modality_vocabulary(splits.train)
    transformers.set_seed(settings.seed)
    mllm = initial_mllm(settings, layout)
    branch = initial_segmentation(settings, mllm.hidden_size, modalities)
    trained = {
        f"{side}.{name}": parameter
        for side, module in (("mllm", mllm), ("segmentation", branch))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": 1e-5},
            {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    preparation = Preparation(
        prompt_encoder(load_tokenizer(layout), layout, settings),
        image_sizes(layout, settings),
        modalities,
    )
    samples = TrainingSamples(SampleDataset(splits.train, preparation), settings.seed)
    gradients: dict[str, torch.Tensor] = {}
    norms, losses = [], []
    averages = {name: parameter.detach().clone() for name, parameter in trained.items()}
    for step in range(STEPS):
        optimizer.zero_grad()
        step_loss = 0.0
        for first in range(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH, micro_batch):
            batch = Collator(0, "question")([samples[first + i] for i in range(micro_batch)])
            terms = loss_terms(forward(mllm, branch, batch), batch, settings)
            loss = terms.total(settings, 0, batch) * micro_batch / GLOBAL_BATCH
            loss.backward()
            step_loss += loss.item()
        gradients = gradients or {name: p.grad.clone() for name, p in trained.items()}
        # One norm over both sides.
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)))
        losses.append(step_loss)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(
                step, STEPS, settings.warmup_ratio, settings.min_lr_ratio
            )
        optimizer.step()
        keep = min(EMA_DECAY, (2 + step) / (11 + step))
        averages = {
            name: keep * average + (1 - keep) * trained[name].detach()
            for name, average in averages.items()
        }
    return Reference(
        gradients, norms, losses, {n: p.detach() for n, p in trained.items()}, averages
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_those_of_plain_pytorch(
    runs: Path, references: dict[int, Reference], variant: str
) -> None:
    """Of every parameter on both sides: engines that feed each other have scaled them wrongly
    under gradient accumulation, which Adam hides in the weights."""
    true = references[VARIANTS[variant]].first_gradients
    assert_gradients(runs / variant, true, 1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_those_of_the_whole_batch_at_once(
    runs: Path, references: dict[int, Reference], variant: str
) -> None:
    """Within what an activation at a ReLU's edge makes of them: 1e-3 of most, 1e-2 of a bias beside
    it. A micro-batch that counts for too little or too much makes more."""
    assert_gradients(runs / variant, references[GLOBAL_BATCH].first_gradients, 5e-2)


def assert_gradients(run: Path, true: dict[str, torch.Tensor], share: float) -> None:
    found = load_file(run / "gradients.safetensors")
    assert found.keys() == true.keys()
    scale = torch.stack([gradient.norm() for gradient in true.values()]).norm()
    for name, expected in true.items():
        error = (found[name] - expected).norm()
        assert error < share * expected.norm() + 1e-6 * scale, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_equal_those_of_plain_pytorch(
    runs: Path, references: dict[int, Reference], variant: str
) -> None:
    """Clipping by one norm over both engines, schedule, weight decay and Adam included."""
    reference = references[VARIANTS[variant]]
    assert metrics(runs / variant, "loss") == pytest.approx(reference.losses, rel=1e-3)
    assert metrics(runs / variant, "grad_norm") == pytest.approx(reference.norms, rel=2e-3)
    assert min(reference.norms) > 0.5  # so every step was clipped
    assert_saved(runs / variant, reference.weights)


@pytest.mark.parametrize(("variant", "micro_batch"), [("1proc_average", 4), ("2proc_average", 2)])
def test_averages_equal_those_of_plain_pytorch(
    runs: Path, references: dict[int, Reference], variant: str, micro_batch: int
) -> None:
    assert_saved(runs / variant, references[micro_batch].averages)


def assert_saved(run: Path, expected: dict[str, torch.Tensor]) -> None:
    saved = weights(run)
    compared = 0
    for name, value in expected.items():
        side, _, rest = name.partition(".")
        key = rest if side == "segmentation" else rest.removeprefix("model.")
        key = key.replace(".default.weight", ".weight").replace("modules_to_save.default.", "")
        if not key.endswith(WITHOUT_GRADIENT):
            difference = (saved[key] - value).abs()
            # Adam divides by the gradient's own size, so rounding in a gradient near zero may move
            # a weight anywhere within the learning rate (1e-3) per step, but only few of them.
            assert difference.max() < STEPS * 1e-3, name
            assert difference.mean() < 1e-5, name
            compared += 1
    assert compared > 100


def test_training_moved_both_sides(runs: Path) -> None:
    moved = weights(runs / "1proc_4x1")
    other = weights(runs / "other_seed")
    for side in ("lora_B", "mask_decoder", "image_encoder", "multi_modal_projector"):
        changed = [n for n in moved if side in n and not torch.equal(moved[n], other[n])]
        assert changed, side


def test_same_seed_same_losses_bit_for_bit(runs: Path) -> None:
    for name in ("loss", "grad_norm", "val_dice"):
        first = metrics(runs / "2proc_zero2", name)
        assert first == metrics(runs / "2proc_zero2_again", name)
    first, again = weights(runs / "2proc_zero2"), weights(runs / "2proc_zero2_again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_global_batch_is_the_accumulation_that_it_takes(runs: Path) -> None:
    given, computed = runs / "2proc_zero2_1x2", runs / "2proc_global_batch"
    assert metrics(computed, "loss") == metrics(given, "loss")
    assert all(torch.equal(weights(given)[name], w) for name, w in weights(computed).items())
    assert "global_batch_size: 4" in (computed / "settings.yaml").read_text()


def test_every_validation_sample_counts_once(runs: Path) -> None:
    # 7 samples are no multiple of 4, 2x2 or 2x1.
    for folder in runs.iterdir():
        if (folder / "metrics.jsonl").exists():
            assert set(metrics(folder, "val_samples")) == {7.0}
