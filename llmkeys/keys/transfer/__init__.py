"""Import and export of keys, in the format of the older product's `llm_api_keys.json`.

The file is a JSON list with one object per key: the fields of a key (see `presentation.key_json`) plus `apiKey`. Both
spellings are read, `isActive`/`isDefault` and `active`/`default`; times are strings or lists of numbers
`[year, month, day, hour, minute, second, nanosecond]`, in the operator's time zone if they name none.

`reading` splits the text into entries with line numbers, `fields` turns an entry into a key or a list of errors,
`importing` stores the keys, all or none, and `exporting` writes them to a file.
"""

from __future__ import annotations
