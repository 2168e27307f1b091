"""What benchmarks/step.py compares: the same training, at the cost that it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import pytest
import torch

from benchmarks import step_times
from benchmarks.step import checked, count_of, parser
from benchmarks.step_clock import PARTS
from benchmarks.step_counts import Counts
from benchmarks.step_model import META, ModelSource, random_batch
from benchmarks.step_modelled import modelled
from benchmarks.step_recipes import RECIPES, SAME_COUNTS, Variant
from benchmarks.step_times import measure
from prs_med.plan.hardware import CARDS


@pytest.fixture(autouse=True)
def warmed_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU needs less of it than a GPU."""
    monkeypatch.setattr(step_times, "WARM_UP", 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(torch.device("cpu"), tmp_path_factory.mktemp("models"), small=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(META, tmp_path_factory.mktemp("shapes"), small=True)


Trained = tuple[torch.Tensor, dict[str, torch.Tensor]]
"""Loss and gradients of a small batch."""


@pytest.fixture(scope="module")
def trained_by(models: ModelSource) -> Callable[[str], Trained]:
    return cache(partial(train, models))


def train(models: ModelSource, name: str) -> Trained:
    variant = Variant(RECIPES[name], models)
    recipe = variant.recipe
    loss = variant.run(random_batch(1, recipe.questions, models.side, recipe.shares))
    modules = {"mllm": variant.model.mllm, "segmentation": variant.model.segmentation}
    gradients = {
        f"{kind}.{name}": parameter.grad
        for kind, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    for parameter in variant.parameters():
        parameter.grad = None
    return loss, gradients


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("two_pass", "ours"),
        ("square_window", "ours"),
        ("separate_norms", "ours"),
        ("attention_weights", "ours"),
        ("ours", "gradient_checkpointing"),
        ("ours", "encoder_checkpointing"),
        ("ours", "channels_first"),
        ("by_image", "shared_prefix"),
    ],
)
def test_recipes_train_alike(trained_by: Callable[[str], Trained], one: str, other: str) -> None:
    (loss, gradients), (other_loss, other_gradients) = trained_by(one), trained_by(other)
    torch.testing.assert_close(loss, other_loss, rtol=1e-5, atol=0)
    assert gradients.keys() == other_gradients.keys()
    # Some gradients are nothing but rounding, such as those of biases in front of a batch norm.
    for side in ("mllm", "segmentation"):
        names = [name for name in gradients if name.startswith(side)]
        whole = float(torch.stack([gradients[name].norm() for name in names]).norm())
        for name in names:
            difference = float((gradients[name] - other_gradients[name]).norm())
            assert difference <= 1e-4 * float(gradients[name].norm()) + 1e-5 * whole, name


EXACT = {
    "two_pass": (327_248_309_376, 405_307_764),
    "ours": (172_120_482_944, 363_352_752),
    "separate_norms": (172_120_482_944, 373_284_176),
    "attention_weights": (171_953_759_360, 373_191_328),
    "gradient_checkpointing": (224_618_751_104, 89_248_240),
    "encoder_checkpointing": (172_480_222_080, 341_672_656),
    "both": (224_978_490_240, 67_568_144),
    "by_image": (504_805_217_408, 1_020_527_104),
    "shared_prefix": (257_543_672_960, 551_166_144),
}
"""FLOPs and bytes that are kept, of a batch with two images, of the small model."""


@pytest.fixture(scope="module")
def counted(shapes: ModelSource) -> dict[str, Counts]:
    names = [name for name in RECIPES if name not in SAME_COUNTS]
    return {name: count_of(Variant(RECIPES[name], shapes), shapes, 2) for name in names}


def test_costs_are_exact(counted: dict[str, Counts]) -> None:
    assert {name: (each.flops, each.kept) for name, each in counted.items()} == EXACT


def test_the_older_recipe_computes_far_more(counted: dict[str, Counts]) -> None:
    assert counted["two_pass"].flops / counted["ours"].flops > 1.8
    assert counted["by_image"].flops / counted["shared_prefix"].flops > 1.8


def test_nobody_keeps_more_than_the_older_recipe(counted: dict[str, Counts]) -> None:
    """Per question: by_image and shared_prefix have three about an image."""
    kept = {name: each.kept / RECIPES[name].questions for name, each in counted.items()}
    assert max(kept, key=kept.__getitem__) == "two_pass"
    assert min(kept, key=kept.__getitem__) == "both"


def test_what_a_card_should_take_follows_the_counts(
    counted: dict[str, Counts], shapes: ModelSource
) -> None:
    card = CARDS["h200"]
    coarse = count_of(Variant(RECIPES["segmentation_bf16"], shapes), shapes, 2)
    of = {name: modelled(each, card) for name, each in {**counted, "coarse": coarse}.items()}
    for parts in of.values():
        assert list(parts) == [part for part in PARTS if part != "optimizer"]
        assert all(0 < each.best < each.worst for each in parts.values())
    ours, older, again = of["ours"], of["two_pass"], of["gradient_checkpointing"]
    assert older["LM forward"].best == pytest.approx(2 * ours["LM forward"].best, rel=0.1)
    assert again["LM backward"].best > 1.2 * ours["LM backward"].best
    assert again["encoder"] == ours["encoder"]
    assert of["coarse"]["decoder"].best < ours["decoder"].best
    assert of["coarse"]["LM backward"] == ours["LM backward"]


def test_one_recipe_leaves_nothing_behind_for_the_next(models: ModelSource) -> None:
    plain = Variant(RECIPES["ours"], models)
    layers = plain.model.mllm.llava.model.language_model.layers
    Variant(RECIPES["both"], models).run(random_batch(1, 1, models.side))
    embeddings = plain.model.mllm.llava.get_input_embeddings()
    assert not embeddings(torch.zeros(1, 2, dtype=torch.long)).requires_grad
    compiled = Variant(RECIPES["all"], models)
    assert not any(layer.gradient_checkpointing for layer in layers)
    assert all(layer._compiled_call_impl is None for layer in layers)
    assert compiled.model.segmentation.image_encoder._compiled_call_impl is not None
    assert plain.model.segmentation.image_encoder._compiled_call_impl is None


def test_times_are_of_all_parts(models: ModelSource) -> None:
    names = ("two_pass", "ours")
    variants = {name: Variant(RECIPES[name], models) for name in names}
    batches = {name: random_batch(1, 1, models.side) for name in names}
    rounds: Iterator[int] = iter(range(5))
    before = [p.detach().clone() for p in variants["ours"].parameters() if p.requires_grad]
    times = measure(variants, batches, 2, lambda: next(rounds))
    assert next(rounds) == 2
    for each in times.values():
        assert (each.questions, each.tokens, len(each.milliseconds)) == (1, 676, 2)
        assert all(time > 0 for parts in each.parts for time in parts.values())
        assert set(each.parts[0]) == set(PARTS)
    after = [p for p in variants["ours"].parameters() if p.requires_grad]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_recipe_that_fails_says_why_and_the_others_go_on(
    models: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {name: Variant(RECIPES[name], models) for name in ("two_pass", "ours")}

    def fail(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory\nand more")

    monkeypatch.setattr(variants["two_pass"], "run", fail)
    batch = random_batch(1, 1, models.side)
    times = measure(variants, dict.fromkeys(variants, batch), 1, lambda: None)
    assert times["two_pass"].failure == "OutOfMemoryError: out of memory"
    assert len(times["ours"].milliseconds) == 1


def test_what_was_measured_before_an_interrupt_counts(models: ModelSource) -> None:
    variants = {"ours": Variant(RECIPES["ours"], models)}
    batch = random_batch(1, 1, models.side)

    def interrupt() -> None:
        raise KeyboardInterrupt

    times = measure(variants, {"ours": batch}, 20, interrupt)
    assert len(times["ours"].milliseconds) == 1


def test_no_round_begins_after_the_time_is_over(models: ModelSource) -> None:
    variants = {"ours": Variant(RECIPES["ours"], models)}
    batch = random_batch(1, 1, models.side)
    times = measure(variants, {"ours": batch}, 20, lambda: None, seconds=0)
    assert len(times["ours"].milliseconds) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipes", "ours,theirs"], "--recipes theirs: allowed are two_pass"),
        (["--count", "--recipes", "tf32"], "--recipes tf32: it counts what another recipe does"),
        (["--count", "--output", "x"], "drop --count"),
        (["--gpu", "h200"], "--gpu is about what is modelled: add --count"),
        (["--profile", "ours"], "name it with --output"),
        (["--recipes", "ours", "--profile", "two_pass"], "--profile two_pass: it is not among"),
    ],
)
def test_wrong_options_end_in_one_line(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["step.py", *words])
    with pytest.raises(SystemExit):
        checked(parser())
    assert told in capsys.readouterr().err
