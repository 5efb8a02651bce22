"""Moving in and out: the older product's `llm_api_keys.json`, read and written.

The file is a JSON list with one object per key: the fields of a key (see `presentation.key_json`) plus `apiKey`. Both
spellings are read, `isActive`/`isDefault` and `active`/`default`; instants are texts or lists of numbers
`[year, month, day, hour, minute, second, nanosecond]`, and one without a zone is in the operator's.

reading → text to entries with their lines · fields → one entry to one key, or its faults · importing → into the
database, all or nothing · exporting → back into a file.
"""

from __future__ import annotations
