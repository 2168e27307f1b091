"""Who a scan is of, without saying so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

# DICOM PS3.15 table E.1-1 lists what identifies a patient. These are the ones that name folders.
_OF_THE_PATIENT = ("PatientID", "OtherPatientIDs", "PatientName", "PatientBirthDate")
_OF_THE_SCAN = (
    *("AccessionNumber", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
)
# A shorter identifier, such as "7", is looked for as a whole word only.
_ANYWHERE = 4


@dataclass(frozen=True)
class Patient:
    """A patient under another name."""

    pseudonym: str
    """The same for all scans with one patient ID; empty where a scan has none."""

    replaced: Mapping[str, str]
    """What identifies the patient or the scan, and what stands for it instead."""

    def without_identifiers(self, name: str) -> str:
        """A name in which identifiers are replaced, however they are spaced and capitalised."""
        if not self.replaced:
            return name
        # The longest first, so that no part of another identifier is left over.
        words = sorted(self.replaced, key=lambda word: (-len(word), word))
        pattern = "|".join(f"({_pattern(word)})" for word in words)
        return re.sub(
            pattern,
            lambda found: self.replaced[words[(found.lastindex or 1) - 1]],
            name,
            flags=re.I,
        )


def pseudonym(identifier: str) -> str:
    """``p`` and the first 16 hexadecimal digits of the SHA-256 of an identifier in UTF-8.

    The same on every machine, so patients stay together over several runs, and whoever may see the
    identifiers can find the scan again. Whoever can guess all identifiers can do so too: a
    pseudonym is no anonymity.
    """
    return "p" + hashlib.sha256(identifier.encode()).hexdigest()[:16]


def patient_of(header: Dataset) -> Patient:
    """The patient that a DICOM header names; values without letters and digits name nobody."""
    identifier = str(header.get("PatientID") or "").strip()
    name = pseudonym(identifier) if _runs(identifier) else ""
    replaced = {}
    for keyword in _OF_THE_SCAN:
        for word in _words(header, keyword):
            replaced[word] = pseudonym(word)
    for keyword in _OF_THE_PATIENT:
        for word in _words(header, keyword):
            replaced[word] = name or pseudonym(word)
    return Patient(name, replaced)


def _words(header: Dataset, keyword: str) -> list[str]:
    """The values of an attribute that have letters or digits; of a person's name its parts."""
    value = header.get(keyword)
    if value is None:
        return []
    if keyword == "PatientName":
        values = re.split(r"[\^=\s]+", str(value))
    else:
        # Several values are a list of pydicom's own, which is no list or tuple.
        values = [str(one) for one in value] if hasattr(value, "append") else [str(value)]
    return [one.strip() for one in values if _runs(one)]


def _runs(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def _pattern(word: str) -> str:
    joined = r"[\W_]*".join(re.escape(run) for run in _runs(word))
    whole = rf"(?<![^\W_]){joined}(?![^\W_])"
    return joined if sum(len(run) for run in _runs(word)) >= _ANYWHERE else whole
