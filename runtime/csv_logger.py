"""`metrics.csv`, one row per logged step, that survives a resume (Lightning's own deletes the old file)."""

import csv
import io
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from backbones.files import existing, read_text, write_atomically

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0


class CsvLogger(Logger):
    """Rows are kept until the next flush. A resumed run takes the place of the rows that it repeats."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] | None = None
        self._flushed = time.monotonic()
        self._failed = False

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
        """Writes the rows. A failure, such as a full disk, is logged once and never stops the run."""
        self._flushed = time.monotonic()
        if not self._rows:
            return
        try:
            self._write(self._rows)
        except (OSError, ValueError) as error:
            if not self._failed:
                log.warning("%s could not be written, and the run goes on: %s", self.path, error)
            self._failed = True
        else:
            self._rows, self._failed = [], False

    def _write(self, rows: list[dict[str, Any]]) -> None:
        new = [key for row in rows for key in row if key not in (self._columns or [])]
        if self._columns is not None and not new and not self._failed:
            existing(self.path, "metrics")
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
            return
        earlier = self._read(before=rows[0]["step"] if self._columns is None or self._failed else None)
        columns = list(dict.fromkeys(key for row in earlier + rows for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(earlier + rows)
        write_atomically(self.path, text.getvalue())
        self._columns = columns

    def _read(self, before: int | None) -> list[dict[str, Any]]:
        """Rows that are there. A damaged file is kept under another name, and the rows begin anew."""
        if not os.path.lexists(self.path):
            return []
        try:
            lines = read_text(self.path, "metrics").splitlines(keepends=True)
            reader = csv.DictReader(lines, strict=True)
            rows = [row for row in reader if None not in row and None not in row.values()]
            if "step" not in (reader.fieldnames or ("step",)):
                raise ValueError("no column 'step'")
            return [row for row in rows if before is None or not row["step"] or int(row["step"]) < before]
        except (ValueError, csv.Error) as error:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            self.path.replace(aside)
            log.warning("%s is damaged and kept as %s; a new one begins: %s", self.path, aside.name, error)
            return []

    def finalize(self, status: str) -> None:
        self.save()
