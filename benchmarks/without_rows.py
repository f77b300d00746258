"""The gateway with a recorder that keeps nothing: what the rows cost is what is left beside it.

python -m benchmarks.without_rows serve …        # the options of chatglm-gateway serve
"""

from __future__ import annotations

from gateway import cli, lifecycle
from persistence.message_row import MessageRow
from persistence.recorder import Recorder


class NoRows(Recorder):
    """Forgets every row at once."""

    def begin(self, row: MessageRow) -> None:
        """Nothing is begun."""

    async def close(self, row: MessageRow, timeout_seconds: float) -> bool:
        """Durable in no time."""
        return True


if __name__ == "__main__":
    vars(lifecycle)["Recorder"] = NoRows
    cli.main()
