"""Tables of words that users bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from prs_med.data.answer_position import parse_position
from prs_med.data.position_words import packaged_languages, position_words
from prs_med.data.records import DataError

ITALIAN = """\
top: [alto]
bottom: [basso]
left: [sinistra]
right: [destra]
center: [centro]
in: [in, nell, dell, a]
is: [è]
finding: [tumore]
article: [il]
not: [no, non]
image: [immagine]
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "it.yaml"
    path.write_text(ITALIAN, encoding="utf-8")
    return path


def test_a_table_of_ones_own_is_read_beside_english(table: Path) -> None:
    tables = position_words(f"{table},de")
    assert [one.name for one in tables] == ["en", "it", "de"]
    assert parse_position("Il tumore è in alto a sinistra.", tables).zone == "top left"
    assert parse_position("Non è nell'immagine in alto a sinistra.", tables).zone is None
    assert parse_position("Top left.", tables).zone == "top left"
    assert parse_position("Oben links.", tables).zone == "top left"


def test_packaged_tables_go_by_name_or_by_file_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert packaged_languages() == ["de", "en", "es", "fr", "zh"]
    assert position_words("de.yaml") == position_words("de")
    assert position_words(None) == position_words("en")


def test_words_that_yaml_takes_for_truth_values_stay_words(table: Path) -> None:
    assert parse_position("No in alto a sinistra.", position_words(str(table))).zone is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("top: [alto]\nunder: [sotto]", "unknown key 'under'; allowed are top, bottom"),
        ("top: alto", "top is 'alto'; it must be a list of words"),
        ("top: [[alto]]", r"top is \[\['alto'\]\]; it must be a list"),
        ("top: [basso]", "'basso' is in top and in bottom"),
        ("top: ['!']", "top: '!' has no word"),
        ("", "no words for top"),
        ("top: [", "not a table of words"),
    ],
)
def test_what_is_no_table_is_refused_with_key_and_word(
    tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(ITALIAN.replace("top: [alto]", change), encoding="utf-8")
    with pytest.raises(DataError, match=f"--position_words {path}: .*{message}") as caught:
        position_words(str(path))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nl: not a table of words .* one of de, en, es, fr, zh"):
        position_words("nl")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(DataError, match="needs keys such as top and left"):
        position_words(str(tmp_path / "list.yaml"))
