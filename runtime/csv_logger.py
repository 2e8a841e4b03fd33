"""`metrics.csv`, one row per logged step, that survives a resume (Lightning's own deletes the old file)."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from backbones.files import write_atomically

FLUSH_SECONDS = 5.0


class CsvLogger(Logger):
    """Rows are kept until the next flush. A resumed run takes the place of the rows that it repeats."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] | None = None
        self._flushed = time.monotonic()

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append({"step": step, **{key: float(value) for key, value in metrics.items()}})
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.save()

    def save(self) -> None:
        self._flushed = time.monotonic()
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        new = [key for row in rows for key in row if key not in (self._columns or [])]
        if self._columns is not None and not new:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
            return
        earlier = self._read(before=rows[0]["step"] if self._columns is None else None)
        self._columns = list(dict.fromkeys(key for row in earlier + rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(earlier + rows)
        write_atomically(self.path, text.getvalue())

    def _read(self, before: int | None) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [row for row in rows if before is None or not row["step"] or int(row["step"]) < before]

    def finalize(self, status: str) -> None:
        self.save()
