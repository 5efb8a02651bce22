"""The file format: what is written can be read anywhere, and one room alone writes secrets."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.keys.transfer.exporting import CannotExport, export_file
from llmkeys.keys.transfer.fields import read_key
from llmkeys.keys.transfer.reading import BrokenFile, Entry, read_entries
from tests.helpers import NOW
from tests.test_imports import MODULES, room_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    ["id", "provider", "apiKey", "name", "isActive", "active", "isDefault", "default", "dailyLimit", "totalCost",
     "totalRequests", "lastUsed", "createdAt", "expiresAt", "status", "lastError", "priority", "source", "colour"]
)  # fmt: skip


def entry_of(values: dict) -> Entry:
    text = json.dumps(values)
    return Entry(1, 1, json.loads(text, parse_float=Decimal), text)


class TestReading:
    @settings(max_examples=100)
    @given(st.dictionaries(FIELDS, JSON))
    def test_it_finds_faults_and_never_raises(self, values):
        key, faults, warnings = read_key(entry_of(values), at=NOW)
        assert faults or key.from_environment or key.secret
        assert all(words.startswith("Line 1, key 1") for words in (*faults, *warnings))

    @settings(max_examples=200)
    @given(st.text() | JSON.map(json.dumps))
    def test_any_text_is_entries_or_a_broken_file(self, tmp_path_factory, text):
        file = tmp_path_factory.mktemp("any") / "keys.json"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            entries = read_entries(file)
        except BrokenFile as broken:
            assert "\nTraceback" not in str(broken) and str(broken)
        else:
            assert [entry.values for entry in entries] == json.loads(text, parse_float=Decimal)

    def test_it_knows_the_line_of_each_key_and_field(self, tmp_path):
        (tmp_path / "keys.json").write_text('[\n  {"name": "A",\n   "totalCost": 1},\n\n  {\n  "name": "B"}\n]\n')
        one, two = read_entries(tmp_path / "keys.json")
        assert (one.line, one.line_of("totalCost"), two.line, two.line_of("name")) == (2, 3, 5, 6)

    def test_a_byte_order_mark_does_no_harm(self, tmp_path):
        (tmp_path / "keys.json").write_bytes(b"\xef\xbb\xbf[]")
        assert read_entries(tmp_path / "keys.json") == []


@pytest.mark.django_db
class TestWriting:
    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch):
        file = tmp_path / "keys.json"
        file.write_text("before")

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CannotExport, match="No space left on device"):
            export_file(file, at=NOW, overwrite=True)
        assert file.read_text() == "before" and [one.name for one in tmp_path.iterdir()] == ["keys.json"]


def test_one_room_alone_writes_secrets():
    callers = {room_of(path) for path in MODULES if "reveal(" in Path(path).read_text()}
    assert callers == {"vault", "keys"}
