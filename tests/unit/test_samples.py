"""From rows to samples and batches: what is read, how it is prepared, and what is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from prs_med.batch import UNKNOWN_MODALITY, Batch
from prs_med.data import rows as rows_module
from prs_med.data.contents import content_digest
from prs_med.data.geometry import PADDING
from prs_med.data.order import Rank
from prs_med.data.records import DataError, Record
from prs_med.data.rows import Verified, look_into, verify_files
from prs_med.data.samples import Preparation, SampleDataset
from prs_med.data.training_data import LocalData
from prs_med.model.llava_layouts import CLIP_MEAN, CLIP_STD
from prs_med.model.normalise import normalise
from tests.unit.assembled import Inputs, read_inputs

ONE_RANK = Rank(0, 1)


@pytest.fixture(scope="module")
def inputs(small) -> Inputs:
    return read_inputs(small)


@pytest.fixture
def copied(small, tmp_path: Path) -> Inputs:
    """Inputs whose files a test may damage."""
    shutil.copytree(small.data, tmp_path / "data")
    return read_inputs(replace(small, data=tmp_path / "data"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((50, 40)).save(path)


@dataclass
class Drawing:
    """An image of its own with a mask, as a record."""

    record: Record
    pixels: np.ndarray
    mask: np.ndarray


def draw(folder: Path, width: int, height: int) -> Drawing:
    rng = np.random.default_rng(width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 2 :] = 1
    image_path, mask_path = folder / "image.png", folder / "mask.png"
    Image.fromarray(pixels).save(image_path)
    Image.fromarray(mask * 255).save(mask_path)
    record = Record("a.csv:2", image_path, mask_path, "Where?", "There.", "", None, "train")
    return Drawing(record, pixels, mask)


def test_each_file_of_a_sample_is_opened_once(inputs, monkeypatch) -> None:
    opened: Counter[Path] = Counter()
    really_read = Path.read_bytes

    def counting_read(path: Path) -> bytes:
        opened[path] += 1
        return really_read(path)

    monkeypatch.setattr(Path, "read_bytes", counting_read)
    record = inputs.records[3]
    inputs.dataset()[3]
    assert opened == {record.image_path: 1, record.mask_path: 1}


def test_in_the_official_layout_the_image_is_not_the_mask(inputs) -> None:
    for index, record in enumerate(inputs.records[:4]):
        assert record.image_path.parent.name.endswith("_images")
        assert record.mask_path.parent.name.endswith("_masks")
        sample = inputs.dataset()[index]
        stored = np.asarray(Image.open(record.image_path)).transpose(2, 0, 1)
        # The small images have the side that the segmentation encoder gets.
        np.testing.assert_array_equal(sample.image_seg.numpy(), stored)
        assert len(sample.image_seg.unique()) > 2
        truth = np.asarray(Image.open(record.mask_path)) > 127
        np.testing.assert_array_equal(sample.mask[0].numpy(), truth)


def test_shapes_and_types_are_those_of_a_batch(inputs, tmp_path: Path) -> None:
    sample = inputs.dataset([draw(tmp_path, 40, 60).record])[0]
    vlm, seg = inputs.sizes.vlm, inputs.sizes.seg
    assert (sample.image_vlm.shape, sample.image_vlm.dtype) == ((3, vlm, vlm), torch.uint8)
    assert (sample.image_seg.shape, sample.image_seg.dtype) == ((3, seg, seg), torch.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((1, seg, seg), torch.uint8)
    assert sample.mask.unique().tolist() == [0, 1]
    assert sample.modality == UNKNOWN_MODALITY
    assert (sample.row_id, sample.weight) == ("a.csv:2", 1.0)


@pytest.mark.parametrize(("width", "height"), [(40, 80), (120, 90)])
def test_the_segmentation_input_is_stretched_or_padded(
    inputs, tmp_path: Path, width: int, height: int
) -> None:
    drawing, side = draw(tmp_path, width, height), inputs.sizes.seg
    assert inputs.sizes.image_fit == "stretch"
    padding = replace(inputs.sizes, image_fit="pad")
    for sizes, columns, rows in [
        (inputs.sizes, side, side),
        (padding, side * width // max(width, height), side * height // max(width, height)),
    ]:
        sample = SampleDataset([drawing.record], Preparation(inputs.prompts, sizes, ()))[0]
        inside = np.zeros((side, side), bool)
        inside[:rows, :columns] = True
        scaled = Image.fromarray(drawing.pixels).resize((columns, rows), Image.Resampling.BILINEAR)
        found = sample.image_seg.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found[inside], np.asarray(scaled).reshape(-1, 3))
        assert (found[~inside] == PADDING).all()
        assert (sample.mask[0].numpy()[~inside] == 0).all()
        # The upper right of the drawing's middle, see draw().
        assert sample.mask[0].numpy()[rows * 3 // 8, columns * 3 // 4] == 1
        assert sample.mask[0].numpy().sum() == pytest.approx(rows * columns / 8, rel=0.06)


@pytest.mark.parametrize(("width", "height"), [(40, 80), (120, 90)])
def test_a_base_model_that_pads_gets_the_mean_colour_beside_the_image(
    inputs, tmp_path: Path, width: int, height: int
) -> None:
    assert inputs.layout.pad_to_square
    assert inputs.sizes.pad_colour == tuple(int(255 * value) for value in CLIP_MEAN)
    sample = inputs.dataset([draw(tmp_path, width, height).record])[0]
    corner = sample.image_vlm[:, 0, 0].tolist()
    assert corner == list(inputs.sizes.pad_colour)
    edge = sample.image_vlm[:, :, 0] if height > width else sample.image_vlm[:, 0]
    assert (edge == edge[:, :1]).all()


def test_any_other_base_model_gets_the_centre(inputs, tmp_path: Path) -> None:
    drawing = draw(tmp_path, 56, 112)
    sizes = replace(inputs.sizes, pad_to_square=False)
    cropping = SampleDataset([drawing.record], Preparation(inputs.prompts, sizes, ()))
    assert inputs.sizes.vlm == 56
    expected = drawing.pixels[28:84].transpose(2, 0, 1)
    np.testing.assert_array_equal(cropping[0].image_vlm.numpy(), expected)


@pytest.mark.parametrize(("width", "height"), [(70, 131), (131, 70), (90, 90)])
def test_pixels_equal_those_of_clips_own_processor(
    inputs, tmp_path: Path, width: int, height: int
) -> None:
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    drawing = draw(tmp_path, width, height)
    side = max(width, height)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(255 * value) for value in CLIP_MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = drawing.pixels
    size = inputs.sizes.vlm
    processor = clip.CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=CLIP_MEAN,
        image_std=CLIP_STD,
    )
    expected = processor(Image.fromarray(square), return_tensors="pt")["pixel_values"]
    sample = inputs.dataset([drawing.record])[0]
    found = normalise(sample.image_vlm[None], inputs.layout.image_mean, inputs.layout.image_std)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", ["image_path", "mask_path"])
def test_a_truncated_file_is_refused_with_its_row(copied, which: str) -> None:
    record = copied.records[2]
    truncate(getattr(record, which))
    name = getattr(record, which).name
    with pytest.raises(DataError, match=rf"^{record.row_id}: .*{name}: not a readable image"):
        copied.dataset()[2]
    assert copied.dataset()[1].row_id == copied.records[1].row_id


def test_a_mask_of_another_size_is_refused_with_both_sizes_and_its_row(copied) -> None:
    record = copied.records[2]
    shrink(record.mask_path)
    with pytest.raises(DataError, match=rf"^{record.row_id}: .*96 x 96 .* 50 x 40"):
        copied.dataset()[2]


def test_a_sequence_that_is_too_long_is_refused_with_its_row(small) -> None:
    inputs = read_inputs(small, max_length=30)
    with pytest.raises(DataError, match=rf"^{inputs.records[0].row_id}: .*--max_length 30"):
        inputs.dataset()[0]


@pytest.mark.parametrize("workers", [0, 3])
def test_verifying_finds_exactly_the_bad_rows(copied, workers: int) -> None:
    records = copied.records
    truncate(records[1].image_path)
    shrink(records[5].mask_path)
    records[8].mask_path.unlink()
    records[10] = replace(records[10], question="Where? " * 2000)
    verified = verify_files(records, copied.prompts, workers, show_progress=False)
    bad = {1, 5, 8, 10}
    assert verified.records == [r for index, r in enumerate(records) if index not in bad]
    assert len(verified.bad_rows) == len(bad)
    for message, index in zip(verified.bad_rows, sorted(bad), strict=True):
        assert message.startswith(f"{records[index].row_id}: ")
        assert message.count(records[index].row_id) == 1


def several_questions(records: list[Record]) -> list[Record]:
    """Three rows about each image and its mask."""
    return [
        replace(record, row_id=f"{record.row_id}.{number}", question=f"{record.question} {number}")
        for record in records
        for number in range(3)
    ]


@pytest.mark.parametrize("world", [1, 3, 50])
def test_processes_verify_together_what_one_verifies_alone(copied, world: int) -> None:
    records = several_questions(copied.records)
    truncate(records[3].image_path)
    shrink(records[15].mask_path)
    records[24] = replace(records[24], mask_path=records[24].image_path.with_name("none.png"))
    records[30] = replace(records[30], question="Where? " * 2000)
    alone = verify_files(records, copied.prompts, 2, show_progress=False)
    parts = [
        look_into(records, copied.prompts, 2, show_progress=False, rank=Rank(index, world))
        for index in range(world)
    ]
    together = Verified.of(records, parts)
    assert together == alone
    assert len(together.bad_rows) == 3 + 3 + 1 + 1
    assert [row.partition(": ")[0] for row in together.bad_rows] == [
        record.row_id for record in records if record not in together.records
    ]


def test_verifying_decodes_each_image_and_each_mask_once(copied, monkeypatch) -> None:
    decoded: list[Path] = []

    def noting(load: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *more: decoded.append(path) or load(path, *more)

    for name in ("load_image", "load_mask"):
        monkeypatch.setattr(rows_module, name, noting(getattr(rows_module, name)))
    records = several_questions(copied.records)
    verified = verify_files(records, copied.prompts, 2, show_progress=False)
    files = {path for record in records for path in (record.image_path, record.mask_path)}
    assert sorted(decoded) == sorted(files)
    images = {record.image_path for record in records}
    assert verified.contents == {path: content_digest(path) for path in images}


def test_filling_does_not_count(inputs) -> None:
    dataset = inputs.dataset()
    batch = inputs.collator([dataset[0], dataset[None], dataset[4]])
    assert batch.weight.tolist() == [1, 0, 1]
    assert torch.equal(batch.image_seg[0], batch.image_seg[1])


def test_modalities_outside_the_vocabulary_are_unknown(inputs) -> None:
    dataset = SampleDataset(
        [replace(inputs.records[0], modality=name) for name in ("ct", "mri", "pet", None)],
        Preparation(inputs.prompts, inputs.sizes, ("ct", "mri")),
    )
    assert [dataset[index].modality for index in range(4)] == [0, 1, -1, -1]


def assert_same(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, field.name


def validation(
    inputs: Inputs, records: list[Record], workers: int, micro_batch: int
) -> Iterable[Batch]:
    data = LocalData([], records, seed=0, num_workers=workers)
    return data.validation_batches(
        inputs.preparation, inputs.collator, micro_batch=micro_batch, rank=ONE_RANK
    )


def test_worker_processes_change_no_batch(inputs) -> None:
    def evaluated(workers: int) -> list[Batch]:
        return list(validation(inputs, inputs.records[:7], workers, micro_batch=3))

    def trained(workers: int) -> list[Batch]:
        data = LocalData(inputs.records[:5], [], seed=4, num_workers=workers)
        batches = data.training_batches(
            inputs.preparation, inputs.collator, micro_batch=2, accumulation=2, rank=ONE_RANK
        )
        with closing(batches):
            return list(islice(batches, 6))

    for read in (evaluated, trained):
        alone, in_workers = read(0), read(2)
        assert len(alone) == len(in_workers)
        for one, other in zip(alone, in_workers, strict=True):
            assert_same(one, other)


def test_evaluation_holds_every_sample_once_and_fills_up(inputs) -> None:
    batches = list(validation(inputs, inputs.records[:7], 0, micro_batch=3))
    counted = [
        row_id
        for batch in batches
        for row_id, weight in zip(batch.row_ids, batch.weight.tolist(), strict=True)
        if weight
    ]
    assert counted == [record.row_id for record in inputs.records[:7]]
    assert [len(batch) for batch in batches] == [3, 3, 3]


def test_validation_samples_by_their_numbers(inputs) -> None:
    records = inputs.records[:5]
    numbers = [3, 0, 3]
    found = LocalData([], records, seed=0, num_workers=2).read_validation(
        inputs.preparation, numbers
    )
    for sample, number in zip(found, numbers, strict=True):
        expected = inputs.dataset(records)[number]
        assert sample.row_id == records[number].row_id
        assert (sample.question, sample.answer) == (
            records[number].question,
            records[number].answer,
        )
        assert sample.text == expected.text
        assert torch.equal(sample.image_seg, expected.image_seg)
        assert torch.equal(sample.mask, expected.mask)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_process_names_the_row(copied, workers: int) -> None:
    record = copied.records[2]
    truncate(record.image_path)
    loader = validation(copied, copied.records[:4], workers, micro_batch=2)
    with pytest.raises(DataError, match=record.row_id) as raised:
        list(loader)
    last_line = str(raised.value).strip().splitlines()[-1]
    assert record.row_id in last_line
    assert record.image_path.name in last_line
